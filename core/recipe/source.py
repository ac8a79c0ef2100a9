"""YAML text to plain values that remember their lines; one base file; ``key=value`` overrides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from core.contracts import UserError
from core.recipe.faults import COMMAND_LINE, Fault, KeyPath, Origin


@dataclass
class Source:
    """Values as written, before interpolation, the origin of each key, and what was wrong with the writing."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    exchanged: set[KeyPath] = field(default_factory=set)  # components of the file that the command line names anew
    readable: bool = True


def read(file: Path, overrides: Sequence[str] = ()) -> Source:
    """A recipe with its base and overrides merged. Raises ``UserError`` when the file itself cannot be read."""
    source = _read_file(file)
    if "base" in source.values:
        source = _with_base(source, file)
    for text in overrides:
        override(source, text)
    return source


def _read_file(file: Path) -> Source:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"the recipe {file} cannot be read: {reason}") from error
    source = Source()
    top = Origin(str(file), 1)
    try:
        values = _Reader(source, lambda node: Origin(str(file), node.start_mark.line + 1)).read(text)
    except yaml.YAMLError as error:
        source.readable = False
        source.faults.append(Fault(_mark(error, file), (), f"this is not YAML: {_problem(error)}"))
        return source
    if isinstance(values, dict):
        source.values = values
    else:
        source.readable = False
        source.faults.append(Fault(top, (), "a recipe is a mapping of keys to values, and this file holds none"))
    source.origins.setdefault((), top)
    return source


def _mark(error: yaml.YAMLError, file: Path) -> Origin:
    mark = getattr(error, "problem_mark", None)
    return Origin(str(file), mark.line + 1 if mark else 1)


def _problem(error: yaml.YAMLError) -> str:
    return getattr(error, "problem", None) or str(error).splitlines()[0]


class _Reader:
    """Builds plain values from YAML nodes; only null, booleans, numbers, text, lists and mappings with text keys."""

    def __init__(self, source: Source, place: Callable[[yaml.Node], Origin]) -> None:
        self._source, self._place = source, place
        self._open: set[int] = set()  # nodes being read, to notice an alias to an enclosing one

    def read(self, text: str, path: KeyPath = ()) -> Any:
        """Raises ``yaml.YAMLError``."""
        self._loader = yaml.SafeLoader(text)
        try:
            node = self._loader.get_single_node()
            return None if node is None else self._value(node, path)
        finally:
            self._loader.dispose()

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        self._source.origins.setdefault(path, self._place(node))
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._open:
            return self._fault(node, path, "this alias refers to a mapping or list that contains it")
        self._open.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            value: Any = [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        else:
            value = self._mapping(node, path)
        self._open.remove(id(node))
        return value

    def _mapping(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._scalar(key_node, path) if isinstance(key_node, yaml.ScalarNode) and key_node.tag != _MERGE else None
            if not isinstance(key, str):
                said = key_node.value if isinstance(key_node, yaml.ScalarNode) else "this key"
                hint = "use base or ${...} instead" if key_node.tag == _MERGE else "keys are text, put it in quotes"
                self._fault(key_node, path, f"{said!r} is no key of a recipe: {hint}")
                continue
            here = (*path, key)
            if key in values:
                self._fault(key_node, here, f"duplicate key {key!r}: it is already given at {self._source.origins[here]}")
                continue
            self._source.origins[here] = self._place(key_node)
            values[key] = self._value(value_node, here)
        return values

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        try:
            value = self._loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            return self._fault(node, path, f"{node.value!r} cannot be read ({error}): put it in quotes if it is text".replace("\n", " "))
        if value is not None and not isinstance(value, bool | int | float | str):
            return self._fault(node, path, f"YAML reads {node.value!r} as a {type(value).__name__}: put it in quotes if it is text")
        return value

    def _fault(self, node: yaml.Node, path: KeyPath, message: str) -> None:
        self._source.faults.append(Fault(self._place(node), path, message))


_MERGE = "tag:yaml.org,2002:merge"


def _with_base(child: Source, file: Path) -> Source:
    """The base with the child laid over it."""
    name, origin = child.values.pop("base"), child.origins[("base",)]
    if not isinstance(name, str):
        child.faults.append(Fault(origin, ("base",), "expected the path of one recipe, relative to this file"))
        return child
    base_file = file.parent / name
    if not base_file.is_file():
        child.faults.append(Fault(origin, ("base",), f"there is no file {base_file}"))
        return child
    base = _read_file(base_file)
    if "base" in base.values:
        message = f"{base_file} has a base of its own: chains of bases are not allowed, a recipe has one base at most"
        child.faults.append(Fault(origin, ("base",), message))
        del base.values["base"]
    lay_over(base, child, ())
    base.origins[()] = child.origins[()]
    base.faults += child.faults
    base.readable = base.readable and child.readable
    return base


def lay_over(below: Source, above: Source, path: KeyPath) -> None:
    """Merges ``above`` into ``below`` from ``path`` on, in place.

    A mapping merges key by key. A mapping that has ``use`` describes a whole component and replaces what was there, as
    all other values do: the keys of one component mean nothing to another.
    """
    old_parent, new_parent = _at(below.values, path), _at(above.values, path)
    for key, value in new_parent.items():
        here = (*path, key)
        if isinstance(value, dict) and isinstance(old_parent.get(key), dict) and "use" not in value:
            lay_over(below, above, here)
        else:
            old_parent[key] = value
            _forget(below.origins, here)
            below.origins |= {place: origin for place, origin in above.origins.items() if place[: len(here)] == here}
        below.origins[here] = above.origins[here]


def _at(values: Any, path: KeyPath) -> Any:
    for key in path:
        values = values[key]
    return values


def _forget(origins: dict[KeyPath, Origin], path: KeyPath) -> None:
    for place in [place for place in origins if place[: len(path)] == path]:
        del origins[place]


def override(source: Source, text: str) -> None:
    """Sets one key; keys on the way are made where they are missing."""

    def fault(message: str) -> None:
        source.faults.append(Fault(COMMAND_LINE, (), message))

    dotted, equals, written = text.partition("=")
    keys = dotted.split(".")
    if not equals or not all(keys):
        return fault(f"{text!r} is no override: write key.path=value")
    if keys[0] == "base":
        return fault("base cannot be overridden: it is read before the command line")
    parent: Any = source.values
    path: KeyPath = ()
    for key in keys[:-1]:
        parent, path = _step(source, parent, path, key)
        if parent is None:
            return fault(f"{text!r} leads nowhere: there is no mapping or item {key!r} on the way")
    last: str | int = keys[-1]
    if isinstance(parent, list):
        if not keys[-1].isdigit() or int(keys[-1]) >= len(parent):
            return fault(f"{text!r} leads nowhere: the list has no item {keys[-1]!r}")
        last = int(keys[-1])
    path = (*path, last)
    above = Source()
    try:
        value = _Reader(above, lambda node: COMMAND_LINE).read(written, path)
    except yaml.YAMLError as error:
        return fault(f"the value of {text!r} is not YAML: {_problem(error)}")
    source.faults += above.faults
    above.origins[path] = COMMAND_LINE
    if isinstance(parent, dict) and isinstance(value, dict) and isinstance(parent.get(last), dict) and "use" not in value:
        above.values = _nested(path, value)
        lay_over(source, above, path)
    else:
        if last == "use" and parent.get(last) not in (None, value):
            source.exchanged.add(path[:-1])
        parent[last] = value
        _forget(source.origins, path)
        source.origins |= above.origins


def _step(source: Source, parent: Any, path: KeyPath, key: str) -> tuple[Any, KeyPath]:
    if isinstance(parent, list):
        here: KeyPath = (*path, int(key)) if key.isdigit() else path
        return (parent[int(key)] if key.isdigit() and int(key) < len(parent) else None), here
    here = (*path, key)
    if parent.get(key) is None:
        parent[key] = {}
        source.origins[here] = COMMAND_LINE
    return (parent[key] if isinstance(parent[key], dict | list) else None), here


def _nested(path: KeyPath, value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value
