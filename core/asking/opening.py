"""The model that is asked: of a run its export or its newest checkpoint, or what a published folder or a training file holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from core.checkpoints.trained_weights import Trained


@dataclass(frozen=True)
class Side:
    """A model that is asked the same as another; ``take`` gives it this side's weights, where two sides are one model."""

    name: str
    model: Model
    take: Callable[[], object] = lambda: None


def open_sides(source: Path, registry: Registry, base: Path | None, dtype: str | None, beside: Path | None = None) -> list[Side]:
    """``source`` after ``beside``, where this is given; otherwise of a run or a training file the weights before and after training.

    Raises ``UserError``.
    """
    from core.checkpoints.model_files import holds_trained_tensors_only
    from core.checkpoints.trained_weights import is_run, open_file

    found = named_best(home(source))
    if beside is not None:
        return [Side(named, model) for model, named in (open_model(one, registry, None, dtype) for one in (beside, source))]
    if is_run(found):
        trained = _open_trained(found, registry, base, dtype)
    elif found.exists() and holds_trained_tensors_only(found):
        trained = open_file(found, open_model(source, registry, base, dtype)[0])
    else:
        model, named = open_model(source, registry, base, dtype)
        return [Side(named, model)]
    sides = {"before training": "base", f"after training ({trained.source})": "full"}
    return [Side(name, trained.model, partial(trained.use, variant)) for name, variant in sides.items()]


@dataclass(frozen=True)
class _Asked:
    """The part of a recipe that asking needs."""

    model: Model


def open_model(
    source: Path, registry: Registry, base: Path | None = None, dtype: str | None = None, settings: Sequence[str] = ()
) -> tuple[Model, str]:
    """The model, and what it was read from in words; ``settings``: ``KEY=VALUE`` of the model. Raises ``UserError``."""
    from core.checkpoints.model_files import holds_trained_tensors_only, refuse_other_folder
    from core.checkpoints.own_recipe import own_recipe
    from core.checkpoints.trained_weights import is_run  # late: it imports torch

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
    trained = _open_trained(source, registry, base, dtype, settings)
    trained.use("full")
    return trained.model, str(trained.source)


def _open_trained(run: Path, registry: Registry, base: Path | None, dtype: str | None, wanted: Sequence[str] = ()) -> Trained:
    """The newest checkpoint of a run, or one of its checkpoints, over the run's base; ``wanted``: ``KEY=VALUE`` of the model."""
    from core.checkpoints.made_of import base_setting
    from core.checkpoints.own_recipe import own_recipe
    from core.checkpoints.trained_weights import find_checkpoint, open_run

    checkpoint, recipe = find_checkpoint(run)
    settings = [*([f"model.dtype={dtype}"] if dtype else []), *(f"model.{one}" for one in wanted)]
    if base is not None:
        settings.append(base_setting(recipe.parent, own_recipe(recipe.parent), base, registry))
    return open_run(checkpoint, registry, own_recipe(recipe.parent, settings))


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


def device_named(asked: str) -> str:
    """The device that ``auto``, ``cpu``, ``cuda`` or ``cuda:1`` means here. Raises ``UserError``."""
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=asked)
    except (RuntimeError, AssertionError, ValueError) as error:
        why = str(error).splitlines()[0].split(" device type")[0]
        raise UserError(f"--device {asked}: not here ({why}); write auto, cpu, cuda or cuda:1") from None
    return asked


def placed(model: Model, device: str) -> None:
    """Moves a model to a device, where it is one that can be moved."""
    import torch

    if isinstance(model, torch.nn.Module):
        model.to(device)
