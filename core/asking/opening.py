"""The model that is asked: of a run its export or its newest checkpoint, or what a published folder or a training file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.contracts import Model, UserError
from core.engine.best import named_best
from core.installed.home import home
from core.registry import Registry


def open_model(source: Path, registry: Registry, base: Path | None = None, dtype: str | None = None) -> tuple[Model, str]:
    """The model, and what it was read from in words. Raises ``UserError``."""
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
        return _of_files(source, base, dtype, registry), str(source)
    if base is None and (export := _fresh_export(source)) is not None:
        return _of_files(export, None, dtype, registry), str(export)
    checkpoint, recipe = find_checkpoint(source)
    settings = [f"model.dtype={dtype}"] if dtype else []
    if base is not None:
        settings.append(base_setting(recipe.parent, own_recipe(recipe.parent), base, registry))
    trained = open_run(checkpoint, registry, own_recipe(recipe.parent, settings))
    trained.use("full")
    return trained.model, str(checkpoint)


def _of_files(path: Path, base: Path | None, dtype: str | None, registry: Registry) -> Model:
    from core.checkpoints.model_files import model_entry

    entry = model_entry(path, base, registry)
    component = registry.get("models", entry["use"])
    keys: dict[str, Any] = {name: Path(value) if isinstance(value, str) else value for name, value in entry.items() if name != "use"}
    if dtype:
        if not any(parameter.name == "dtype" for parameter in component.parameters):
            raise UserError(f"--dtype: the model {entry['use']} has no such key")
        keys["dtype"] = dtype
    model: Model = component.create(**keys)
    return model


def _fresh_export(run: Path) -> Path | None:
    """The export of a finished run that is not older than its newest checkpoint: it needs neither the base nor the adapters."""
    export = run / "export"
    if not (export / "config.json").is_file() or not (run / "result.json").is_file():
        return None
    kept = [file.stat().st_mtime for file in run.glob("checkpoints/update-*/trained.safetensors")]
    return export if (export / "config.json").stat().st_mtime >= max(kept, default=0.0) else None
