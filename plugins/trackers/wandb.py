"""Weights & Biases: online with a key, otherwise real offline files that ``wandb sync`` uploads later."""

from __future__ import annotations

import netrc
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from core.contracts import RunInfo


def has_key() -> bool:
    """Whether W&B would find an API key: in ``WANDB_API_KEY`` or in the netrc file, for the host of ``WANDB_BASE_URL``."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    named = os.environ.get("NETRC")
    for path in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if netrc.netrc(str(path)).hosts.get(host):  # not authenticators(): a "default" entry is no W&B key
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


class Wandb:
    """One W&B run for each run folder, under ``<run folder>/wandb``; x axis ``update``, config = resolved recipe.

    ``mode: auto`` follows ``WANDB_MODE`` where it is set, is online with a key and falls back to offline without one or
    when the server cannot be reached within 30 seconds. A resumed run continues the same W&B run: its id is kept in
    ``<run folder>/wandb_id``. Upload of offline parts: ``wandb sync <run folder>/wandb/offline-run-*``.
    """

    def __init__(
        self,
        *,
        project: str,
        entity: str | None = None,
        mode: Literal["auto", "online", "offline"] = "auto",
        group: str | None = None,
        tags: list[str] | None = None,
    ) -> None:
        if not project or set(project) & set("/\\#?%:"):
            raise ValueError(f"project must be a name without any of / \\ # ? % :, not {project!r}.")
        if mode not in ("auto", "online", "offline"):
            raise ValueError(f"mode must be auto, online or offline, not {mode!r}.")
        self.project, self.entity, self.mode, self.group, self.tags = project, entity, mode, group, tags
        self._run: Any = None

    def start(self, run: RunInfo) -> None:
        mode: Any = self.mode
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
        if mode == "offline":  # nothing leaves the machine, crash reports included
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

        import wandb  # after the environment is set; the package, not this module: imports are absolute

        try:
            self._run = self._init(run, mode)
        except wandb.errors.CommError:  # also: the key is refused
            if self.mode != "auto":
                raise
            self._run = self._init(run, "offline")
        self._run.define_metric("update", hidden=True)
        self._run.define_metric("*", step_metric="update")

    def _init(self, run: RunInfo, mode: Any) -> Any:
        import wandb

        run.folder.mkdir(parents=True, exist_ok=True)
        id_file = run.folder / "wandb_id"
        if run.resumed_at > 0 and id_file.is_file():
            run_id = id_file.read_text(encoding="utf-8").strip()
        else:
            run_id = uuid.uuid4().hex[:8]
            id_file.write_text(run_id + "\n", encoding="utf-8")
        return wandb.init(
            project=self.project,
            entity=self.entity,
            name=run.folder.name,
            group=self.group or run.name,
            tags=self.tags,
            id=run_id,
            resume="allow" if mode == "online" and run.resumed_at > 0 else None,  # offline, `wandb sync` joins the parts
            dir=str(run.folder),
            config=run.recipe,
            mode=mode,
            settings=wandb.Settings(silent=True, console="off", init_timeout=30, save_code=False),
        )

    def log(self, update: int, values: Mapping[str, float]) -> None:
        self._open().log({"update": update} | {name: float(value) for name, value in values.items()})

    def picture(self, update: int, name: str, path: Path) -> None:
        import wandb

        self._open().log({"update": update, name: wandb.Image(str(path))})

    def finish(self, summary: Mapping[str, float]) -> None:
        if self._run is None:
            return
        self._run.summary.update({name: float(value) for name, value in summary.items()})
        self._run.finish()
        self._run = None

    def _open(self) -> Any:
        if self._run is None:
            raise RuntimeError("start() comes before log() and picture().")
        return self._run
