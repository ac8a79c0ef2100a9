"""What one part of a recipe says of another, as far as it can be seen without building anything."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from core.contracts import NeedsSomething
from core.recipe.faults import KeyPath, path_text
from core.recipe.moving import MOVABLE
from core.recipe.plan import Node, nodes

Tell = Callable[[KeyPath, str], Any]


def cross_check(values: Mapping[str, Any], root: Node, fault: Tell) -> None:
    """Calls ``fault`` with (key path, sentence) for each of them. What has the wrong type has its fault already, and is passed over."""
    _precision(values, root, fault)
    _moving(root, fault)
    loops = values.get("loops")
    if not isinstance(loops, dict):
        return
    for section, key in (("gradient", "anchor"), ("schedule", "order"), ("schedule", "main"), ("schedule", "other")):
        named = _given(root.children.get(section), key)
        known = _task_names(loops) if section == "gradient" and _by_task(values) else list(loops)
        for name in [named] if isinstance(named, str) else named if isinstance(named, list | tuple) else []:
            if isinstance(name, str) and name not in known:
                near = difflib.get_close_matches(name, known, n=1) or known
                what = "task" if known != list(loops) else "loop"
                fault((section, key), f"there is no {what} {name!r}: did you mean {' or '.join(map(repr, near))}?")
    _weights(loops, fault)
    for node in nodes(root):
        loop = node.component.object if node.component and node.component.entry.kind == "loops" else None
        if isinstance(loop, NeedsSomething) and "teacher" in loop.needs and values.get("teacher") is None:
            fault(node.path, "this loop needs a teacher: give the recipe one, e.g. teacher: {use: ema}")


def _by_task(values: Mapping[str, Any]) -> bool:
    gradient = values.get("gradient")
    return isinstance(gradient, dict) and gradient.get("by") == "task"


def _task_names(loops: dict[str, Any]) -> list[str]:
    """``LOOP/TASK`` of every task, which is what their gradients are called."""
    tasks = {name: entry.get("tasks") for name, entry in loops.items() if isinstance(entry, dict)}
    return [f"{name}/{task}" for name, inside in tasks.items() if isinstance(inside, dict) for task in inside]


def _precision(values: Mapping[str, Any], root: Node, fault: Tell) -> None:
    """float32 arithmetic and frozen weights in 16 bit do not go together; the model would say so after gigabytes have been read."""
    train, dtype = values.get("train"), _given(root.children.get("model"), "dtype")
    if isinstance(train, dict) and train.get("precision") == "fp32" and dtype in ("bfloat16", "float16"):
        fault(("train", "precision"), f"fp32 does not go with model.dtype={dtype}: write auto or bf16, or model.dtype=float32")


def _moving(root: Node, fault: Tell) -> None:
    """A number may only move where the engine can set it: as a parameter of a component that is asked anew in every update."""
    for node in nodes(root):
        owner = node.component.entry.kind if node.component else "weight" if node.path[:1] == ("loops",) and len(node.path) == 2 else None
        for key, child in node.children.items():
            if child.moving is not None and not (owner in MOVABLE or (owner == "weight" and key == "weight")):
                movable = f"the weight of a loop and numbers of {', '.join(MOVABLE)} can"
                fault(child.path, f"this number cannot move with the updates: {movable}; write a plain number")


def _weights(loops: dict[str, Any], fault: Tell) -> None:
    """All sources of a loop have a weight, above zero, or none has."""
    for name, loop in loops.items():
        tasks = loop.get("tasks") if isinstance(loop, dict) else None
        weights = {
            ("loops", name, "tasks", task, "data", source): entry.get("weight")
            for task, setting in (tasks.items() if isinstance(tasks, dict) else ())
            if isinstance(setting, dict) and isinstance(setting.get("data"), dict)
            for source, entry in setting["data"].items()
            if isinstance(entry, dict)
        }
        weighted = next((path for path, weight in weights.items() if weight is not None), None)
        for path, weight in weights.items():
            if weight is None and weighted is not None:
                message = f"this source has no weight, but {path_text(weighted)} has one: give every source of {name} a weight, or none"
                fault(path, message)
            if weight in (0, float("inf")):
                message = (
                    f"expected a finite number above 0, got {weight}; to leave the source out, remove it or write {path_text(path)}=null"
                )
                fault((*path, "weight"), message)


def _given(node: Node | None, key: str) -> Any:
    """The value of a component's parameter as the recipe or else its default gives it."""
    if node is None or node.component is None:
        return None
    if key in node.children:
        return _plain(node.children[key])
    return next((p.default for p in node.component.parameters if p.name == key), None)


def _plain(node: Node) -> Any:
    return node.value if node.make is None else [_plain(child) for child in node.children.values()]
