"""Going on in a run's folder: what may differ from its recipe then, when it is finished already, and training it longer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.contracts import UserError
from core.engine import checkpoint
from core.engine.evaluation import write_whole
from core.recipe import Recipe, resolved_values, resolved_yaml
from core.registry import Registry, is_local

#: What may differ between a run and its resumption without making it another experiment.
FREE_ON_RESUME = (
    "track",
    "checkpoint",
    "output",
    "launch",
    "evaluate",
    "train.workers",
    "train.prefetch_gib",
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
RESULTS = ("result.json", "result.md", "pictures_after.png")  # what a finished run says of its end


def require_same_recipe(folder: Path, now: Mapping[str, Any]) -> None:
    """Raises ``UserError`` unless the resolved recipe ``now`` is that of the run in ``folder``, or the same for more updates."""
    then = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    old, new = _leaves(then), _leaves(json.loads(json.dumps(now, default=str)))
    different = [
        key
        for key in sorted(old.keys() | new.keys())
        if _plain(key, old.get(key)) != _plain(key, new.get(key))
        and not key.startswith(("data.", "base"))
        and not any(key == free or key.startswith(free + ".") for free in FREE_ON_RESUME)
        and not (key == "train.updates" and new[key] > old[key])
    ]
    if different:
        changes = ", ".join(f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in different[:5])
        shorter = " (a run can become longer, not shorter)" if different == ["train.updates"] else ""
        raise UserError(
            f"{folder} was made by another recipe: {changes}{shorter}; --resume {folder} alone goes on with its own recipe, "
            f"train.updates=N trains it longer, and a new run of another recipe can begin with its weights: start_from={folder}"
        )
    if (was := _global_batch(then)) != (asked := _global_batch(now)):
        raise UserError(
            f"{folder} was made with {was} samples per update and loop, this asks for {asked}; choose train.batch_size x "
            f"train.accumulate x launch.processes = {was}: which samples come next depends on it"
        )


def finished(folder: Path, updates: int) -> str | None:
    """A sentence where the run in ``folder`` has done its ``updates`` and written its result: there is nothing to go on with."""
    done = _done(folder)
    if done < updates or not (folder / "result.json").is_file():
        return None
    return f"{folder}: finished already, {done} of {updates} updates; train.updates=N with a larger N trains it longer"


def train_longer(folder: Path, recipe: Recipe, registry: Registry) -> str | None:
    """Makes ``recipe`` the one of the run in ``folder`` if it asks for more updates; returns a sentence about it.

    The recipe of before and the result that was reached with it are kept in ``until-update-000120/`` (the updates done by then).
    Killed in between, the run is still whole, with one recipe or the other.
    """
    before = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))["train"]["updates"]
    updates, done = recipe.values["train"]["updates"], _done(folder)
    if updates == before:
        return None
    kept = folder / f"until-update-{done:06d}"
    kept.mkdir(exist_ok=True)
    if not (kept / "recipe.yaml").is_file():
        shutil.copyfile(folder / "recipe.yaml", kept / "recipe.yaml")
    for name in RESULTS:
        if (folder / name).is_file():
            (folder / name).replace(kept / name)
    write_recipe(folder, recipe, registry)
    return f"longer: {updates} updates instead of {before}, {done} are done; the learning rate goes on as in a run of {updates}"


def write_recipe(folder: Path, recipe: Recipe, registry: Registry) -> None:
    """The resolved recipe in a run's folder, which counts as a run once it has ``recipe.json``."""
    write_whole(folder / "recipe.yaml", resolved_yaml(recipe, registry, beside=True))
    write_whole(folder / "recipe.json", json.dumps(resolved_values(recipe, registry), indent=2, default=str) + "\n")


def _done(folder: Path) -> int:
    """Updates that the newest checkpoint holds."""
    found = checkpoint.list_checkpoints(folder / "checkpoints")
    return found[-1][0] if found else 0


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {k: v for key, inner in value.items() for k, v in _leaves(inner, f"{path}.{key}" if path else key).items()}
    return {path: value}


def _plain(key: str, value: Any) -> Any:
    """A component by its name alone: a run folder's own recipe names the copy of a local file that lies in the folder."""
    if not key.endswith(".use") or not isinstance(value, str):
        return value
    place, _, name = value.rpartition(":")
    return (Path(place).name, name) if is_local(value) else value.rpartition("/")[2]


def _global_batch(values: Mapping[str, Any]) -> int:
    batch: int = values["train"]["batch_size"] * values["train"]["accumulate"] * values["launch"]["processes"]
    return batch
