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


def group_names(groups: str) -> list[str]:
    """``full+embeddings`` -> ``["full", "embeddings"]``; commas do as well."""
    return [name for name in groups.replace(",", "+").split("+") if name]


def model_entry(path: Path, base: Path | None, registry: Registry, groups: str = "full") -> dict[str, Any]:
    """The recipe's ``model`` for a published folder, a training file or adapters. Raises ``UserError`` if no component reads it.

    ``groups``: those that are asked for (``--groups``); a component with the key ``take`` is told those beyond what it takes by itself.
    """
    if base is None and holds_trained_tensors_only(path):
        raise UserError(f"{path}: it holds trained tensors only; name the folder that training started from with --base")
    found: dict[str, dict[str, Any]] = {}
    reasons: list[str] = []
    known: list[str] = []
    for entry in registry.list("models"):
        name = f"{entry.distribution}/{entry.name}"
        try:
            entered = registry.get("models", name)
            component = entered.object
            keys = component.reads(path, base) if isinstance(component, ReadsFiles) else None
        except BrokenPlugin as fault:  # the others may read it
            reasons.append(str(fault))
        except UserError as fault:  # it knows what that is, and what to do
            known.append(str(fault))
        else:
            if keys is not None:
                use = entry.name if registry.unique(entry) else name
                found[use] = {key: str(value) for key, value in keys.items()}
                beyond = [group for group in group_names(groups) if group not in ("full", "base")]
                if beyond and any(parameter.name == "take" for parameter in entered.parameters):
                    found[use]["take"] = beyond
    if not found and known:
        raise UserError(known[0])
    if not found:
        reason = f"; {'; '.join(reasons)}" if reasons else ""
        raise UserError(f"{path}: no installed model reads it: it is no published folder and no training file{reason}")
    if len(found) > 1:
        raise UserError(f"{path}: several models read it: {', '.join(found)}; write a recipe whose model.use names one of them")
    [(name, keys)] = found.items()
    return {"use": name, **keys}


def refuse_other_folder(path: Path, registry: Registry) -> None:
    """Raises ``UserError`` where a component knows what the folder is, and what to do with it: for one that is no run."""
    for entry in registry.list("models"):
        try:
            component = registry.get("models", f"{entry.distribution}/{entry.name}").object
        except BrokenPlugin:  # said where it is needed
            continue
        if isinstance(component, ReadsFiles):
            component.reads(path, None)
