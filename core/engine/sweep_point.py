"""Which point of a sweep a run is: the sweep keeps its axes in its folder, the runs lie beside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.engine.evaluation import write_whole
from core.engine.which_run import read

FILE = "sweep.json"  # {"axes": ["seed", "gradient.use"]}


def keep_axes(folder: Path, axes: Sequence[str]) -> None:
    """Writes ``FILE`` into a new sweep's folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / FILE, json.dumps({"axes": list(axes)}) + "\n")


def group_of(run: Path) -> str:
    """The sweep that a run belongs to, by its folder's name; empty for a run by itself."""
    parent = run.resolve().parent
    return parent.name if _axes(parent) else ""


def point_of(run: Path, values: Mapping[str, Any]) -> str:
    """What sets a run apart from the others of its sweep: ``seed=1, gradient=sum``; empty for a run by itself."""
    return ", ".join(f"{_said(key)}={_value(values, key)}" for key in _axes(run.resolve().parent))


def _axes(sweep: Path) -> list[str]:
    axes = read(sweep / FILE).get("axes")
    return [str(key) for key in axes] if isinstance(axes, list) else []


def _said(key: str) -> str:
    """The last part of a key that says something: ``loops.loop1.weight`` is ``loop1.weight``, ``gradient.use`` is ``gradient``."""
    return ".".join(key.removesuffix(".use").split(".")[-2:])


def _value(values: Any, key: str) -> str:
    for part in key.split("."):
        found = values.get(part) if isinstance(values, Mapping) else values[int(part)] if _place(values, part) else None
        values = found
    if isinstance(values, Mapping) and isinstance(values.get("use"), str):
        return str(values["use"])
    return values if isinstance(values, str) else json.dumps(values, ensure_ascii=False, default=str)


def _place(values: Any, part: str) -> bool:
    return isinstance(values, list) and part.isdigit() and int(part) < len(values)
