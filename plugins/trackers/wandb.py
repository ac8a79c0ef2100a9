"""Weights & Biases: online with a key, otherwise real offline files that ``wandb sync`` uploads later."""

from __future__ import annotations

import netrc
import os
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from core.contracts import Picture, RunInfo, Sample, Within
from plugins.trackers._wandb_file import RESULT, drop_after, last_step, show_beside


def has_key() -> bool:
    """Whether W&B would find an API key: in ``WANDB_API_KEY`` or in the netrc file, for the host of ``WANDB_BASE_URL``."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    named = os.environ.get("NETRC")
    home = os.path.expanduser("~")  # "~" itself, and so no file, for a user without a home folder
    for path in [Path(named)] if named else [Path(home, ".netrc"), Path(home, "_netrc")]:
        try:
            if netrc.netrc(str(path)).hosts.get(host):  # not authenticators(): a "default" entry is no W&B key
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


class Wandb:
    """One W&B run for each run folder, under ``<run folder>/wandb``; config = the resolved recipe with all defaults.

    A run is called by its folder and grouped by the recipe's name; a sweep's by what varies, and grouped by the sweep.

    Names are those of the other trackers. Clocks: ``update`` for what an update gives, ``evaluation/update`` for evaluations;
    W&B's own step is the update. Summaries: the least and the last value of a loss, means of gradients' cosines and of speed,
    the highest memory. ``tags`` are added to ``loop:NAME``, ``gradient:OP`` and ``model:NAME`` from the recipe.

    ``mode: auto`` follows ``WANDB_MODE`` where it is set, is online with a key and falls back to offline without one or
    when the server cannot be reached within 30 seconds. A resumed run continues the same W&B run: its id is kept in
    ``<run folder>/wandb_id``, and what offline files hold past the checkpoint is taken out, so that no step stands twice.
    Upload of offline parts: ``wandb sync <run folder>/wandb/offline-run-*``. ``panels`` pictures of each sheet are shown
    with masks that can be switched; ``checkpoints`` sends the last checkpoint as an artifact at the end.
    """

    background = True  # a slow server or disk does not hold the updates up

    def __init__(
        self,
        *,
        project: str,
        entity: str | None = None,
        mode: Literal["auto", "online", "offline"] = "auto",
        group: str | None = None,
        tags: list[str] | None = None,
        panels: Annotated[int, Within(0)] = 8,
        checkpoints: bool = False,
    ) -> None:
        if not project or set(project) & set("/\\#?%:"):
            hint = "; whose project it is goes into entity" if "/" in project else ""
            raise ValueError(f"project must be a name without any of / \\ # ? % :, not {project!r}{hint}.")
        if mode not in ("auto", "online", "offline"):
            raise ValueError(f"mode must be auto, online or offline, not {mode!r}.")
        if panels < 0:
            raise ValueError(f"panels must be at least 0, not {panels}.")
        self.project, self.entity, self.mode, self.group, self.tags = project, entity, mode, group, tags
        self.most_panels, self.checkpoints = panels, checkpoints
        self._run: Any = None
        self._last, self._folder = 0, Path()
        self._evaluators: tuple[str, ...] = ()

    def start(self, run: RunInfo) -> None:
        self._connect(run)
        if run.sweep and self._run.settings.mode == "offline":
            show_beside(Path(self._run.settings.sync_file), run.folder.resolve().parent / "wandb")

    def _connect(self, run: RunInfo) -> None:
        """Begins, or goes on with, the W&B run of a run folder."""
        mode: Any = self.mode
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
        if os.path.expanduser("~") == "~":  # a user without a home folder: W&B looks for its settings there, and fails
            os.environ["HOME"] = str(run.folder.resolve())
        if mode == "offline":  # nothing leaves the machine, crash reports included
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

        import wandb  # after the environment is set; the package, not this module: imports are absolute

        self._last, self._folder = run.resumed_at, run.folder
        self._evaluators = tuple(f"{name}/" for name in run.recipe.get("evaluate") or {})
        try:
            self._run = self._init(run, mode)
        except wandb.errors.CommError:  # also: the key is refused
            if self.mode != "auto":
                raise
            parts = f"{run.folder}/wandb/offline-run-*"
            warnings.warn(f"W&B cannot be reached or refuses the key: this run is kept offline, for wandb sync {parts}", stacklevel=2)
            self._run = self._init(run, "offline")
        for name, clock, summary in metric_definitions(run.recipe):
            self._run.define_metric(name, step_metric=clock, summary=summary, hidden=clock is None)

    def _init(self, run: RunInfo, mode: Any) -> Any:
        import wandb

        run.folder.mkdir(parents=True, exist_ok=True)
        id_file = run.folder / "wandb_id"
        goes_on = id_file.is_file() and bool(id_file.read_text(encoding="utf-8").strip())  # also where it ended before any checkpoint
        if goes_on:
            run_id = id_file.read_text(encoding="utf-8").strip()
            for part in sorted(run.folder.glob("wandb/*run-*/*.wandb")):
                drop_after(part, run.resumed_at)
        else:
            run_id = uuid.uuid4().hex[:8]
            id_file.write_text(run_id + "\n", encoding="utf-8")
        return wandb.init(
            project=self.project,
            entity=self.entity,
            name=(run.label or run.folder.name)[:128],
            group=self.group or run.sweep or run.name,
            job_type="train",
            tags=[*recipe_tags(run.recipe), *(self.tags or [])],
            id=run_id,
            resume="allow" if mode == "online" and goes_on else None,  # offline, `wandb sync` joins the parts
            dir=str(run.folder),
            config=run.recipe,
            mode=mode,
            settings=wandb.Settings(silent=True, console="off", init_timeout=30, save_code=False),
        )

    def log(self, update: int, values: Mapping[str, float]) -> None:
        self._last = max(self._last, update)
        clocks = {"update": update}
        if any(name.startswith(self._evaluators) for name in values):
            clocks["evaluation/update"] = update
        self._open().log(clocks | {name: float(value) for name, value in values.items()}, step=update)

    def picture(self, update: int, name: str, path: Path) -> None:
        import wandb

        self._open().log({"update": update, name: wandb.Image(str(path), caption=f"update {update}")}, step=update)

    def panels(self, update: int, name: str, pictures: Sequence[Picture]) -> None:
        """Each picture with its true and predicted mask as layers, and title, text and score as its caption."""
        shown = [_panel(picture) for picture in pictures[: self.most_panels]]
        if shown:
            self._open().log({"update": update, f"{name}/panels": shown}, step=update)

    def training_samples(self, update: int, name: str, samples: Sequence[Sample]) -> None:
        """One table for each update: the sample's id, its picture with both masks, a column for each text, and the IoU."""
        import wandb

        texts = list(dict.fromkeys(text for sample in samples for text in sample.texts))
        rows = [[one.id, _panel(one), *(one.texts.get(text, "") for text in texts), one.score] for one in samples]
        if rows:
            table = wandb.Table(columns=["id", "picture", *texts, "IoU"], data=rows)
            self._open().log({"update": update, name: table}, step=update)

    def finish(self, summary: Mapping[str, float]) -> None:
        if self._run is None:
            return
        values = {name: float(value) for name, value in summary.items()}
        if values:
            self._run.log({"evaluation/update": self._last, **values}, step=self._last)
        saved = sorted(self._folder.glob("checkpoints/update-*"))
        if self.checkpoints and saved:
            self._run.log_artifact(self._artifact(saved[-1]), aliases=["latest", saved[-1].name])
        self._run.summary.update(values)
        self._run.finish()
        self._run = None

    def add_results(self, run: RunInfo, update: int, values: Mapping[str, float], pictures: Mapping[str, Path]) -> str:
        """Rows of the same W&B run on the clock ``evaluation/update``; offline a further part, which ``wandb sync`` joins."""
        import wandb

        last = max(map(last_step, run.folder.glob("wandb/*run-*/*.wandb")), default=run.resumed_at)
        self._connect(run)
        for prefix in dict.fromkeys(name.partition("/")[0] for name in values):
            self._run.define_metric(f"{prefix}/*", step_metric="evaluation/update")
        shown = {name: wandb.Image(str(path), caption=f"update {update}") for name, path in pictures.items()}
        row = {RESULT: update, "evaluation/update": update, **{name: float(value) for name, value in values.items()}, **shown}
        offline = self._run.settings.mode == "offline"
        self._run.log(row, step=max(last, run.resumed_at) + 1 if offline else None)  # online W&B goes on by itself
        where = self._run.settings.sync_dir if offline else self._run.url
        self._run.finish()
        self._run = None
        return str(where)

    def _artifact(self, folder: Path) -> Any:
        import wandb

        artifact = wandb.Artifact(f"checkpoint-{self._run.id}", type="checkpoint", metadata={"update": self._last})
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):  # add_dir would print
            artifact.add_file(str(file), name=file.relative_to(folder).as_posix())
        return artifact

    def _open(self) -> Any:
        if self._run is None:
            raise RuntimeError("start() comes before log() and picture().")
        return self._run


def metric_definitions(recipe: Mapping[str, Any]) -> list[tuple[str, str | None, str | None]]:
    """(metric or glob, clock, summary) of a resolved recipe; clocks have no clock of their own.

    No two globs fit one name, and an exact name goes before a glob.
    """
    loops: Mapping[str, Any] = recipe.get("loops") or {}
    losses = [f"{loop}/loss" for loop in loops]
    losses += [f"{loop}/{name}/{term}" for loop, s in loops.items() for name, task in s["tasks"].items() for term in task.get("losses", {})]
    found: list[tuple[str, str | None, str | None]] = [("update", None, None), ("evaluation/update", None, None)]
    found += [(name, "update", "min,last") for name in losses]
    found += [(f"{name}/*", "evaluation/update", None) for name in recipe.get("evaluate") or {}]
    during = {"evaluation": "evaluate_every", "samples": "samples_every"}
    found += [(f"{prefix}/*", "update", None) for prefix, key in during.items() if (recipe.get("train") or {}).get(key)]
    found += [(f"{loop}/*", "update", "last") for loop in loops]
    by_prefix = {"surgery": "mean,last", "teacher": "last", "optimizer": "last", "time": "mean", "memory": "max", "pictures": None}
    return found + [(f"{prefix}/*", "update", summary) for prefix, summary in by_prefix.items()]


def recipe_tags(recipe: Mapping[str, Any]) -> list[str]:
    """``gradient:sum``, ``model:sa2va``, ``loop:loop1``: what one filters runs by; W&B takes at most 64 characters."""
    used = {kind: recipe[kind].get("use") for kind in ("gradient", "model") if isinstance(recipe.get(kind), Mapping)}
    tags = [f"{kind}:{name}" for kind, name in used.items() if name] + [f"loop:{loop}" for loop in recipe.get("loops") or {}]
    return [tag[:64] for tag in tags]


def _panel(picture: Picture) -> Any:
    import wandb

    layers = {"truth": (picture.truth, 1), "prediction": (picture.predicted, 2)}
    masks = {
        name: {"mask_data": mask.astype("uint8") * number, "class_labels": {0: "none", number: name}}
        for name, (mask, number) in layers.items()
        if mask is not None
    }
    score = "" if picture.score is None else f"score {picture.score:.2f}"
    caption = " | ".join(part for part in (picture.title, picture.text, score) if part)
    return wandb.Image(picture.image, masks=masks or None, caption=caption)
