"""Which model component reads a file or folder that a user names: the components say so themselves (``ReadsFiles``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from core.contracts import ReadsFiles, UserError
from core.registry import BrokenPlugin, Registry

#: Of a run's checkpoint: the values that were trained, or the slow ones of its teacher.
Weights = Literal["trained", "teacher"]


def holds_trained_tensors_only(path: Path) -> bool:
    """Whether it is a training file or a folder of PEFT's adapters, which need the folder that training started from."""
    return path.is_file() or (path / "adapter_config.json").is_file()


def model_entry(path: Path, base: Path | None, registry: Registry) -> dict[str, Any]:
    """The recipe's ``model`` for a published folder, a training file or adapters. Raises ``UserError`` if no component reads it."""
    if base is None and holds_trained_tensors_only(path):
        raise UserError(f"{path}: it holds trained tensors only; name the folder that training started from with --base")
    found: dict[str, dict[str, Any]] = {}
    broken: list[str] = []
    for entry in registry.list("models"):
        name = f"{entry.distribution}/{entry.name}"
        try:
            component = registry.get("models", name).object
        except BrokenPlugin as fault:  # the others may read it
            broken.append(str(fault))
            continue
        if isinstance(component, ReadsFiles) and (keys := component.reads(path, base)) is not None:
            found[entry.name if registry.unique(entry) else name] = {key: str(value) for key, value in keys.items()}
    if not found:
        reason = f"; {'; '.join(broken)}" if broken else ""
        raise UserError(f"{path}: no installed model reads it: it is no published folder and no training file{reason}")
    if len(found) > 1:
        raise UserError(f"{path}: several models read it: {', '.join(found)}; write a recipe whose model.use names one of them")
    [(name, keys)] = found.items()
    return {"use": name, **keys}
