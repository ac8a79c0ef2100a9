"""A run rehearsed without its model and data: every cheap component is built, so that all that a constructor refuses is told at once.

Nothing heavy is loaded unless a component loads it. What is wrong is a ``Fault`` with the origin of the value that it is about.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from core.contracts import ChecksKeys, ElementWise, KeepsRunningGradient, NamesGroups, UserError
from core.engine.demands import unmet
from core.engine.launch import cannot_start
from core.recipe import Fault, KeyPath, Recipe, path_text
from core.recipe.faults import COMMAND_LINE
from core.recipe.plan import Node, nodes
from core.recipe.recipe import construct, in_order, plan_of
from core.registry import Registry

HEAVY = ("models", "datasets")  # kinds whose components read files when they are built
UPDATES = 100_000  # of a schedule that are looked at
_ABSENT: Any = object()  # what could not be built, or is not built here


class NoData:
    """Stands for a data set: empty, whatever is asked."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Any:
        raise IndexError(index)

    def images(self) -> list[list[int]]:
        return []


def _is_data(value: Any) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
    return any(isinstance(one, NoData) for one in inside)


def rehearse(recipe: Recipe, registry: Registry, start: bool = True, files: bool = True) -> list[Fault]:
    """Faults of a recipe that has passed ``check``.

    ``start``: also of what this machine cannot start. ``files``: also of what components say of their files (``ChecksKeys``).
    """
    cast = _Rehearsal(recipe, plan_of(recipe, registry).root)
    cast.build_all()
    if files:
        cast.ask_about_files()
    cast.faults += [*_schedule(cast), *_optimizer(cast), *_training(recipe)]
    if start:
        cast.faults += cannot_start_here(recipe)
    return in_order(cast.faults)


class _Rehearsal:
    def __init__(self, recipe: Recipe, root: Node) -> None:
        self.recipe, self.root = recipe, root
        self.faults: list[Fault] = []
        self.built: dict[KeyPath, Any] = {}

    def fault(self, path: KeyPath, message: str) -> None:
        self.faults.append(Fault(self.recipe.locate(path), path, message))

    def build_all(self) -> None:
        for section in ("teacher", "gradient", "schedule", "optimizer"):
            if section in self.root.children and self.root.children[section].component:
                self._build(self.root.children[section])
        for section in ("loops", "track", "evaluate"):
            for node in nodes(self.root.children[section]) if section in self.root.children else ():
                if node.component is not None:
                    self._build(node)
        for path, component in self.built.items():
            if not isinstance(component, NoData) and path[0] not in ("loops", "model") and (names := _weights(component)):
                self.fault(path, f"its weights {', '.join(names[:3])} ask for a gradient, but only loops and the model are trained")

    def _build(self, node: Node) -> Any:
        """What the node builds, ``NoData`` for a data set, or ``_ABSENT``; its faults are kept."""
        if node.path in self.built:
            return self.built[node.path]
        if node.make is None:
            return node.value
        given = {key: self._build(child) for key, child in node.children.items() if key not in node.engine_keys}
        if node.component is None:
            return _ABSENT if any(value is _ABSENT for value in given.values()) else node.make(given)
        kind, wraps = node.component.entry.kind, any(_is_data(value) for value in given.values())
        cheap = kind not in HEAVY or (kind == "datasets" and wraps and not any(isinstance(value, Path) for value in given.values()))
        if cheap and not any(value is _ABSENT for value in given.values()):
            self.built[node.path] = self._construct(node, given, wraps)
        self.built.setdefault(node.path, _ABSENT)
        if kind == "datasets":
            self.built[node.path] = NoData()
        return self.built[node.path]

    def _construct(self, node: Node, given: dict[Any, Any], wraps: bool) -> Any:
        try:
            return construct(node, given)
        except Exception as error:  # a third party's constructor may raise anything: it is told, and the others are still tried
            about = self._about(node, str(error))
            if about == node.path and wraps:
                return _ABSENT  # it may be the missing data that it does not take
            known = isinstance(error, ValueError | UserError | FileNotFoundError)
            self.fault(about, str(error) if known else f"cannot be built: {type(error).__name__}: {error}")
            return _ABSENT

    def _about(self, node: Node, message: str) -> KeyPath:
        """The path of the parameter that a constructor's message names first, rather one that the recipe gives; or the node's."""
        assert node.component is not None
        names = [parameter.name for parameter in node.component.parameters]
        found = [(name not in node.children, at.start(), name) for name in names if (at := re.search(rf"\b{re.escape(name)}\b", message))]
        return (*node.path, min(found)[2]) if found else node.path

    def ask_about_files(self) -> None:
        for node in nodes(self.root):
            self._ask(node)

    def _ask(self, node: Node) -> None:
        """What a component says of its keys without being built, where all paths among them are there."""
        component = node.component.object if node.component else None
        if not isinstance(component, ChecksKeys):
            return
        leaves = [leaf for leaf in nodes(node) if leaf.make is None]
        if any(isinstance(leaf.value, Path) and not leaf.value.exists() for leaf in leaves):
            return  # told as a missing path
        given = {str(key): self._build(child) for key, child in node.children.items() if key not in node.engine_keys}
        try:
            component.check_keys(**given)
        except (UserError, ValueError) as error:
            self.fault(self._about(node, str(error)), str(error))


def _schedule(cast: _Rehearsal) -> Iterator[Fault]:
    """A schedule that names loops which are not there, leaves an update empty, or never lets a loop train."""
    schedule, loops = cast.built.get(("schedule",), _ABSENT), list(cast.recipe.values["loops"])
    if schedule is _ABSENT:
        return

    given = [path for path, origin in cast.recipe.origins.items() if path[:1] == ("schedule",) and origin == COMMAND_LINE]
    path = max(given, key=len, default=("schedule",))  # what the command line has changed of it is to blame

    def fault(message: str) -> Fault:
        return Fault(cast.recipe.locate(path), path, message)

    updates, seen = cast.recipe.values["train"]["updates"], set()
    for update in range(min(updates, UPDATES)):
        try:
            named = list(schedule.loops(update))
        except Exception as error:  # a third party's schedule
            yield fault(f"loops({update}) raises {type(error).__name__}: {error}")
            return
        if wrong := [name for name in named if name not in loops]:
            yield fault(f"it names the loop {wrong[0]!r} in update {update}; there are {', '.join(loops)}")
            return
        if not named or len(set(named)) < len(named):
            what = "no loop" if not named else f"a loop twice ({', '.join(named)})"
            yield fault(f"it gives {what} for update {update}: each update needs at least one loop, and each loop once")
            return
        seen.update(named)
    for name in loops:
        if name not in seen and updates <= UPDATES:
            out = f"let it take part, or take the loop out with loops.{name}=null"
            yield fault(f"the loop {name!r} takes part in none of the {updates} updates of this run: {out}")
    if isinstance(schedule, KeepsRunningGradient):
        if schedule.running[0] not in loops:
            yield fault(f"it keeps the running gradient of {schedule.running[0]!r}; there are {', '.join(loops)}")
        op, gradient = cast.built.get(("gradient",)), cast.recipe.values["gradient"]
        if gradient.get("by") == "task" or isinstance(op, ElementWise):
            what = "by: task" if gradient.get("by") == "task" else f"use: {gradient['use']}, which combines number by number"
            yield fault(f"it keeps a loop's running gradient, which does not go with gradient {what}")


def _optimizer(cast: _Rehearsal) -> Iterator[Fault]:
    """An optimizer that names parameter groups which are not there, where they are known without the model."""
    factory, groups = cast.built.get(("optimizer",), _ABSENT), _groups(cast)
    if factory is _ABSENT or not groups:
        return
    try:
        if isinstance(factory, NamesGroups):
            factory.check_groups(groups)
        else:
            import torch  # late: most optimizers can say it without

            weights = {name: [("weight", torch.nn.Parameter(torch.zeros(2)))] for name in groups}
            factory.build(weights, cast.recipe.values["train"]["updates"])
    except Exception as error:  # a third party's optimizer
        path = cast._about(cast.root.children["optimizer"], str(error))
        known = isinstance(error, UserError | ValueError)
        yield Fault(cast.recipe.locate(path), path, str(error) if known else f"cannot be built: {type(error).__name__}: {error}")


def _groups(cast: _Rehearsal) -> Sequence[str]:
    """The model's trained groups as the recipe lists them under ``model.train``, and the tasks that bring weights; none if not known."""
    train = cast.root.children["model"].children.get("train")
    names = [child.value for child in train.children.values()] if train else []
    if not names or not all(isinstance(name, str) for name in names):
        return []
    tasks = [path for path in cast.built if len(path) == 4 and path[0] == "loops"]
    return [*names, *(path_text(path) for path in tasks if _weights(cast.built[path]))]


def _weights(component: Any) -> list[str]:
    """The names of the weights that a component brings; none where torch is not loaded, without which there are no weights."""
    if "torch" not in sys.modules:
        return []
    from core.engine.own_weights import own_weights

    return [name for name, _ in own_weights(component)]


def _training(recipe: Recipe) -> Iterator[Fault]:
    """What the engine's own keys ask of each other."""
    for path, message in unmet(recipe.values):
        yield Fault(recipe.locate(path), path, message)


def cannot_start_here(recipe: Recipe) -> Iterator[Fault]:
    """Why the run cannot start on this machine."""
    if reason := cannot_start(recipe.values["launch"]):
        key, message = reason
        yield Fault(recipe.locate(("launch", key)), ("launch", key), message)
