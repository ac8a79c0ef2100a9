"""The model that is asked: of a run its export or its newest checkpoint, or what a published folder or a training file holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.contracts import Model, UserError
from core.engine.best import named_best
from core.installed.home import home
from core.recipe import Recipe, build
from core.recipe.faults import COMMAND_LINE
from core.recipe.interpolate import resolve
from core.recipe.plan import Planner
from core.recipe.recipe import Plan
from core.recipe.source import Source, override
from core.registry import Registry


@dataclass(frozen=True)
class _Asked:
    """The part of a recipe that asking needs."""

    model: Model


def open_model(
    source: Path, registry: Registry, base: Path | None = None, dtype: str | None = None, settings: Sequence[str] = ()
) -> tuple[Model, str]:
    """The model, and what it was read from in words; ``settings``: ``KEY=VALUE`` of the model. Raises ``UserError``."""
    from core.checkpoints.made_of import base_setting
    from core.checkpoints.model_files import holds_trained_tensors_only, refuse_other_folder
    from core.checkpoints.own_recipe import own_recipe
    from core.checkpoints.trained_weights import find_checkpoint, is_run, open_run  # late: it imports torch

    source = named_best(home(source))
    if not source.exists():
        raise UserError(f"{source}: not found; name a run, one of its checkpoints, a published folder, or a training file with --base")
    if not is_run(source):
        if not holds_trained_tensors_only(source):
            refuse_other_folder(source, registry)
            if base is not None:
                raise UserError(f"--base goes with a training file, adapters or a run; {source} knows its base itself")
        return _of_files(source, base, dtype, registry, settings), str(source)
    if base is None and (export := _fresh_export(source)) is not None:
        return _of_files(export, None, dtype, registry, settings, own_recipe(source)), str(export)
    checkpoint, recipe = find_checkpoint(source)
    settings = [*([f"model.dtype={dtype}"] if dtype else []), *(f"model.{one}" for one in settings)]
    if base is not None:
        settings.append(base_setting(recipe.parent, own_recipe(recipe.parent), base, registry))
    trained = open_run(checkpoint, registry, own_recipe(recipe.parent, settings))
    trained.use("full")
    return trained.model, str(checkpoint)


def _of_files(
    path: Path, base: Path | None, dtype: str | None, registry: Registry, settings: Sequence[str], run: Recipe | None = None
) -> Model:
    """``run``: the recipe of the run whose export this is: what it says of the model beside its files holds for its export too."""
    from core.checkpoints.model_files import model_entry

    entry = model_entry(path, base, registry)
    names = {parameter.name for parameter in registry.get("models", entry["use"]).parameters}
    if dtype and "dtype" not in names:
        raise UserError(f"--dtype: the model {entry['use']} has no such key")
    kept = [] if run is None else list(_plain_keys(run, names - entry.keys()))
    asked = [*kept, *([f"dtype={dtype}"] if dtype else []), *settings]
    source = Source(origins={(): COMMAND_LINE})
    for text in (f"model={json.dumps(entry)}", *(f"model.{one}" for one in asked)):
        override(source, text)
    values, broken = resolve(source)
    recipe = Recipe(path, values, source.origins, source.faults, broken, typed=source.typed, notes=source.notes)
    planner = Planner(registry, recipe.locate, recipe.broken, recipe.from_environment, recipe.foreign, recipe.typed)
    root = planner.plan(_Asked, recipe.values, ())
    recipe.take_texts(planner.taken)
    planner.close()
    recipe.plans[registry] = Plan(root, planner.faults)
    model: Model = build(recipe, ("model",), registry)
    return model


def _plain_keys(run: Recipe, names: set[str]) -> Iterator[str]:
    """The run's keys of the model that are single values, as settings; adapters and lists of trained groups are about training."""
    values: Any = run.values.get("model")
    for key, value in values.items() if isinstance(values, dict) else ():
        if key in names and isinstance(value, str | int | float):
            yield f"{key}={json.dumps(value)}"


def _fresh_export(run: Path) -> Path | None:
    """The export of a finished run that is not older than its newest checkpoint: it needs neither the base nor the adapters."""
    export = run / "export"
    if not (export / "config.json").is_file() or not (run / "result.json").is_file():
        return None
    kept = [file.stat().st_mtime for file in run.glob("checkpoints/update-*/trained.safetensors")]
    return export if (export / "config.json").stat().st_mtime >= max(kept, default=0.0) else None
