"""A recipe's values matched with the schema: a tree of nodes that can be built, and everything that does not fit."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from core.contracts import UserError, Within
from core.recipe.faults import Fault, KeyPath, Origin, path_text, shown
from core.recipe.foreign import here_it_is
from core.recipe.leaves import NotGiveable, Unfit, leaf, takes_text
from core.recipe.moving import Moving, Way, is_moving, moving_keys
from core.recipe.reader import Typed
from core.recipe.schema import EngineKeys
from core.registry import Component, Registry
from core.registry.call_shape import misfit
from core.registry.signature import OMITTED, Parameter, kind_of, record_fields, type_name


@dataclass
class Node:
    """One value of the recipe with its type. A leaf has no ``make``; others are made of their built children."""

    path: KeyPath
    value: Any = None  # of a leaf
    children: dict[str | int, Node] = field(default_factory=dict)
    make: Callable[[dict[Any, Any]], Any] | None = None
    component: Component | None = None
    fields: tuple[Parameter, ...] = ()  # of a component or a record: the keys that it takes
    engine_keys: frozenset[str] = frozenset()  # children that are not given to the component
    moving: Moving | None = None  # of a leaf whose value moves with the updates; ``value`` is its first


class Planner:
    """Matches values with types and collects all faults."""

    def __init__(
        self,
        registry: Registry,
        locate: Callable[[KeyPath], Origin],
        broken: set[KeyPath],  # paths without a value; each has its fault already
        environment: Collection[KeyPath],  # paths whose value came from an environment variable
        foreign: Callable[[KeyPath], bool] = lambda path: False,  # whether a key was meant for a component since exchanged
        typed: Typed = Typed(),  # noqa: B008 (it is only read)
    ) -> None:
        self.registry, self.locate, self.broken, self.environment, self.foreign = registry, locate, broken, environment, foreign
        self.typed, self.taken = typed, dict[KeyPath, str]()  # ``taken``: texts of it that were asked for
        self.faults: list[Fault] = []
        self.accepts: dict[KeyPath, tuple[str, ...]] = {}  # the keys that each mapping takes
        self.unknown: list[KeyPath] = []
        self.left_out: list[KeyPath] = []  # unknown, but foreign

    def fault(self, path: KeyPath, message: str) -> Node:
        self.faults.append(Fault(self.locate(path), path, message))
        return Node(path)

    def plan(self, annotation: Any, value: Any, path: KeyPath, engine: EngineKeys = EngineKeys()) -> Node:  # noqa: B008
        """The node of ``value``. ``engine``: keys beside a component's own."""
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if path in self.broken:
            return Node(path)
        if origin is Annotated:
            return self._annotated(arguments[0], arguments[1:], value, path)
        if kind := kind_of(annotation):
            node = self._component(kind, value, path, engine)
            if node.component is not None and (wrong := misfit(node.component.object, kind, annotation)):
                self.fault((*path, "use"), f"{value['use']} does not fit: {wrong}")
            return node
        if typing.is_typeddict(annotation):
            return self._record(record_fields(annotation), dict, value, path)
        if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
            return self._record(record_fields(annotation), lambda given: annotation(**given), value, path)
        if origin in (typing.Union, types.UnionType):
            return self._union(annotation, arguments, value, path)
        if path in self.typed.unread and annotation not in (str, Path):
            return self.fault(path, f"{value!r} is not YAML: {self.typed.unread[path]}")
        if is_moving(annotation, value):
            return self._moving(annotation, value, path)
        container = origin or annotation
        if container in (list, Sequence, tuple):
            return self._list(container, arguments, value, path)
        if container in (dict, Mapping):
            return self._mapping(arguments, value, path)
        try:
            if (text := self.typed.texts.get(path)) is not None and takes_text(annotation, text):
                self.taken[path] = value = text
            return Node(path, leaf(annotation, value, path in self.environment))
        except Unfit as unfit:
            return self.fault(path, str(unfit))
        except NotGiveable as error:
            return self.fault(path, f"a recipe cannot give a value of type {error}: the component's signature asks for it")

    def _annotated(self, annotation: Any, notes: tuple[Any, ...], value: Any, path: KeyPath) -> Node:
        engine = next((note for note in notes if isinstance(note, EngineKeys)), EngineKeys())
        before = len(self.faults)
        node = self.plan(annotation, value, path, engine)
        ends = [value] if node.moving is None else [node.moving.first, node.moving.last]
        for note in notes:
            if isinstance(note, Within) and len(self.faults) == before and (wrong := [end for end in ends if not note.holds(end)]):
                wanted = "at least one entry" if isinstance(wrong[0], dict) else f"a value {note}, got {shown(wrong[0])}"
                self.fault(path, f"expected {wanted}")
        return node

    def _moving(self, annotation: Any, value: dict[str, Any], path: KeyPath) -> Node:
        """A number that moves with the updates; as a leaf it is its first value."""
        node = Node(path, make=dict)
        before = len(self.faults)
        self._fields(moving_keys(annotation), value, node, set())
        if len(self.faults) > before or any(place[: len(path)] == path for place in self.unknown):
            return Node(path)
        given = {str(key): child.value for key, child in node.children.items()}
        first, last = given.pop("from"), given.pop("to")
        if given.get("shape") == "exponential" and not first * last > 0:
            return self.fault(path, f"the shape exponential needs from and to of one sign, neither of them 0, got {first} and {last}")
        return Node(path, first, moving=Moving(first, last, Way(**given), annotation is int))

    def _component(self, kind: str, value: Any, path: KeyPath, engine: EngineKeys) -> Node:
        if not isinstance(value, dict):
            hint = f": write {{use: {value}}}" if isinstance(value, str) else ""
            return self.fault(path, f"expected a mapping with 'use' and the parameters of a component of {kind}, got {shown(value)}{hint}")
        engines = [Parameter(name, type_) for name, type_ in engine.types.items()]
        engines += [Parameter(name, type_, OMITTED) for name, type_ in engine.optional.items()]
        node = Node(path, engine_keys=frozenset(key.name for key in engines))
        component = self._named(kind, value, path)
        own: tuple[Parameter, ...] = ()
        if component is not None:
            try:
                own = component.parameters
            except UserError as error:
                self.fault((*path, "use"), str(error))
                component = None
        keys = (*own, *engines)
        if component is not None and (clash := {p.name for p in own} & node.engine_keys):
            self.fault((*path, "use"), f"{component.entry} has a parameter {min(clash)!r}: that key is the engine's")
            component = None
        self._fields(keys, value, node, None if component is None else {"use"})
        if component is not None:
            node.component, node.make = component, lambda given: component.create(**given)
        return node

    def _named(self, kind: str, value: dict[str, Any], path: KeyPath) -> Component | None:
        use = (*path, "use")
        if use in self.broken:
            return None
        if "use" not in value:
            near = difflib.get_close_matches("use", value, n=1)
            hint = f", did you mean it by {near[0]!r}?" if near else ""
            self.fault(path, f"missing key 'use': it names the component of {kind}{hint}")
        elif not isinstance(value["use"], str):
            self.fault(use, f"expected the name of a component of {kind}, got {shown(value['use'])}")
        else:
            try:
                return self.registry.get(kind, value["use"], relative_to=self.locate(use).folder)
            except UserError as error:
                self.fault(use, str(error))
        return None

    def _record(self, keys: tuple[Parameter, ...], make: Callable[[dict[Any, Any]], Any], value: Any, path: KeyPath) -> Node:
        if not isinstance(value, dict):
            return self.fault(path, f"expected a mapping with the keys {', '.join(key.name for key in keys)}, got {shown(value)}")
        node = Node(path, make=make)
        self._fields(keys, value, node, set())
        return node

    def _fields(self, keys: tuple[Parameter, ...], value: dict[str, Any], node: Node, spare: set[str] | None) -> None:
        """Children by name; missing and unknown keys are faults. ``spare`` keys are also taken, with None any key."""
        path, node.fields = node.path, keys
        self.accepts[path] = tuple(key.name for key in keys)
        for key in keys:
            if key.name in value:
                node.children[key.name] = self.plan(key.type, value[key.name], (*path, key.name))
            elif key.required and (*path, key.name) not in self.broken:
                self.fault(path, f"missing key {key.name!r} ({type_name(key.type)})")
        if spare is not None:
            for name in value:
                if name not in {*self.accepts[path], *spare}:
                    (self.left_out if self.foreign((*path, name)) else self.unknown).append((*path, name))

    def _union(self, annotation: Any, branches: tuple[Any, ...], value: Any, path: KeyPath) -> Node:
        """The first branch without a fault; else the faults of the one branch that fits as far as this level.

        What YAML reads comes before what was typed: 3 is a number for ``str | int``, and a text for ``str | None``.
        """
        for typed in (Typed(unread=self.typed.unread), self.typed):
            trials = self._trials(branches, value, path, typed)
            if any(not trial.faults and not trial.unknown for trial, _ in trials):
                break
        good = [t for t in trials if not t[0].faults and not t[0].unknown]
        inside = [t for t in trials if all(len(f.path) > len(path) for f in t[0].faults)]
        mapped = [t for t in trials if t[0].accepts]  # a mapping met a component or record: its faults say the most
        wanted = [t for t, b in zip(trials, branches, strict=False) if b is not type(None)]
        chosen = good or inside or mapped or (wanted if len(wanted) == 1 else [])
        if not chosen:
            return self.fault(path, f"expected {type_name(annotation)}, got {shown(value)}")
        trial, node = chosen[0]
        self.faults += trial.faults
        self.unknown += trial.unknown
        self.left_out += trial.left_out
        self.taken |= trial.taken
        self.accepts |= trial.accepts
        return node

    def _trials(self, branches: tuple[Any, ...], value: Any, path: KeyPath, typed: Typed) -> list[tuple[Planner, Node]]:
        """Each branch by a planner of its own, up to the first without a fault."""
        trials = []
        for branch in branches:
            trial = Planner(self.registry, self.locate, self.broken, self.environment, self.foreign, typed)
            node = trial.plan(branch, value, path)
            trials.append((trial, node))
            if not trial.faults and not trial.unknown:
                break
        return trials

    def _list(self, container: Any, arguments: tuple[Any, ...], value: Any, path: KeyPath) -> Node:
        if not isinstance(value, list):
            hint = f": write [{', '.join(str(value).replace(',', ' ').split())}]" if isinstance(value, str | int | float) else ""
            return self.fault(path, f"expected a list, got {shown(value)}{hint}")
        fixed = container is tuple and arguments and arguments[-1] is not ...
        if fixed and len(value) != len(arguments):
            return self.fault(path, f"expected a list of {len(arguments)} items, got {len(value)}")
        kinds = arguments if fixed else (arguments[0] if arguments else Any,) * len(value)
        children: dict[str | int, Node] = {i: self.plan(kinds[i], item, (*path, i)) for i, item in enumerate(value)}
        return Node(path, children=children, make=lambda given: (tuple if container is tuple else list)(given.values()))

    def _mapping(self, arguments: tuple[Any, ...], value: Any, path: KeyPath) -> Node:
        key_type, item_type = arguments or (str, Any)
        if not isinstance(value, dict):
            return self.fault(path, f"expected a mapping, got {shown(value)}{_example(item_type)}")
        for key in value if key_type is not str else ():
            self.plan(key_type, key, (*path, key))
        return Node(path, children={key: self.plan(item_type, item, (*path, key)) for key, item in value.items()}, make=dict)

    def close(self) -> None:
        """Turns unknown keys into faults, now that all mappings are known in which they might belong."""
        for path in self.unknown:
            parent, name = path[:-1], str(path[-1])
            near = difflib.get_close_matches(name, self.accepts[parent], n=1)
            homes = [place for place, names in self.accepts.items() if name in names and place != parent]
            closest = min((distance(parent, place) for place in homes), default=0)
            homes = [place for place in homes if distance(parent, place) == closest][:3]
            elsewhere = "" if near or homes else here_it_is(name, self.accepts)
            message = f"unknown key {name!r}" + (f", did you mean {near[0]!r}?" if near else "") + elsewhere
            if homes:
                message += f"; {name!r} belongs to {' or '.join(path_text(home) or 'the top level' for home in homes)}"
            elif not near and not elsewhere:
                takes = ", ".join(self.accepts[parent])
                message += f"; this place takes {takes}" if takes else "; this place takes no keys"
            self.fault(path, message)
        self.unknown = []


def _example(item: Any) -> str:
    """How an entry of a mapping of components or records is written."""
    if typing.get_origin(item) is Annotated:
        item = typing.get_args(item)[0]
    if kind_of(item):
        return ": write NAME: {use: COMPONENT, ...}"
    if keys := record_fields(item):
        return f": write NAME: {{{', '.join(f'{key.name}: ...' for key in keys if key.required)}}}"
    return ": write NAME: VALUE"


def nodes(node: Node) -> list[Node]:
    """The node and all below it, from the top."""
    return [node, *(inner for child in node.children.values() for inner in nodes(child))]


def distance(a: KeyPath, b: KeyPath) -> int:
    """Steps between two places in the tree of keys."""
    common = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return len(a) + len(b) - 2 * common
