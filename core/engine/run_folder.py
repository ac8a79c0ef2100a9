"""A run's folder: made whole or not at all, or found again to go on in, if the recipe is still the same experiment."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.contracts import UserError
from core.engine import checkpoint
from core.engine.evaluation import write_whole
from core.recipe import Recipe, local_files, resolved_values, resolved_yaml
from core.registry import Registry

#: What may differ between a run and its resumption without making it another experiment.
FREE_ON_RESUME = (
    "track",
    "checkpoint",
    "output",
    "launch",
    "evaluate",
    "train.workers",
    "train.activation_checkpointing",
    "train.compile",
    "train.evaluate",
    "train.evaluate_every",
    "train.patience",
    "train.samples_every",
    "train.samples",
    "train.max_bad_fraction",
    "train.max_bad_updates",
    "train.batch_size",
    "train.accumulate",
)


def run_folder(recipe: Recipe, registry: Registry, resume: Path | bool | None) -> tuple[Path, Path | None, Path | None]:
    """(the run's folder, the checkpoint to continue from, the folder again if it is new).

    A new folder gets the resolved recipe and local plugin files.
    """
    parent, name = Path(recipe.values["output"]), recipe.values["name"]
    runs = sorted(path for path in parent.glob(f"{name}-*") if (path / "recipe.json").is_file())
    if not resume and recipe.values["launch"]["requeue"] and runs and not (runs[-1] / "result.json").is_file():
        resume = runs[-1]  # this is the same job, started again
    if resume:
        folder = resume if isinstance(resume, Path) else runs[-1] if runs else None
        if folder is None or not folder.is_dir():
            raise UserError(f"nothing to resume: no run folder {folder or parent / (name + '-*')}; run without --resume first")
        _same_recipe(json.loads((folder / "recipe.json").read_text(encoding="utf-8")), resolved_values(recipe, registry), folder)
        found = checkpoint.list_checkpoints(folder / "checkpoints")
        return folder, found[-1][1] if found else None, None
    stamp, folder = time.strftime("%Y%m%d-%H%M%S"), parent
    for attempt in range(1000):
        folder = parent / (f"{name}-{stamp}" + (f"-{attempt}" if attempt else ""))
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:  # two runs in one second
            continue
        except OSError as error:
            raise UserError(f"output: the run folder {folder} cannot be made ({error}); give another folder, output=...") from None
    with removed_on_failure(folder, True):
        for file in local_files(recipe):
            shutil.copyfile(file, folder / file.name)
        (folder / "recipe.yaml").write_text(resolved_yaml(recipe, registry, beside=True), encoding="utf-8")
        values = json.dumps(resolved_values(recipe, registry), indent=2, default=str) + "\n"
        write_whole(folder / "recipe.json", values)  # the folder counts as a run once it has this file
    return folder, None, folder


@contextmanager
def removed_on_failure(folder: Path, new: bool) -> Iterator[None]:
    """A run that cannot be built leaves no folder behind, in which ``--resume`` would find nothing."""
    try:
        yield
    except BaseException:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _same_recipe(then: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    def leaves(value: Any, path: str = "") -> dict[str, Any]:
        if isinstance(value, Mapping):
            return {k: v for key, inner in value.items() for k, v in leaves(inner, f"{path}.{key}" if path else key).items()}
        return {path: value}

    old, new = leaves(json.loads(json.dumps(then))), leaves(json.loads(json.dumps(now, default=str)))
    different = [
        key
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
        and not key.startswith(("data.", "base"))
        and not any(key == free or key.startswith(free + ".") for free in FREE_ON_RESUME)
        and not key.endswith(".use")  # a local file is named by its copy when the run folder's own recipe is resumed
    ]
    if different:
        changes = ", ".join(f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in different[:5])
        raise UserError(f"{folder} was made by another recipe: {changes}; start a new run, or give the same values")
    if (was := _global_batch(then)) != (asked := _global_batch(now)):
        raise UserError(
            f"{folder} was made with {was} samples per update and loop, this asks for {asked}; choose train.batch_size x "
            f"train.accumulate x launch.processes = {was}: which samples come next depends on it"
        )


def _global_batch(values: Mapping[str, Any]) -> int:
    return values["train"]["batch_size"] * values["train"]["accumulate"] * values["launch"]["processes"]
