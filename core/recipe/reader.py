"""YAML text to plain values that remember their lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from core.recipe.faults import Fault, KeyPath, Origin
from core.recipe.scalars import PLAIN, Loader, plain_value


@dataclass
class Typed:
    """Values of the command line that YAML does not read as the text that was typed; a key that asks for text gets that text."""

    texts: dict[KeyPath, str] = field(default_factory=dict)
    unread: dict[KeyPath, str] = field(default_factory=dict)  # what is wrong with those that are no YAML at all

    def forget(self, path: KeyPath) -> None:
        """Of a key that is given anew, and of all below it."""
        for known in (self.texts, self.unread):
            for place in [place for place in known if place[: len(path)] == path]:
                del known[place]


@dataclass
class Source:
    """Values as written, before interpolation, the origin of each key, and what was wrong with the writing."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    exchanged: set[KeyPath] = field(default_factory=set)  # components of the file that the command line names anew
    readable: bool = True
    typed: Typed = field(default_factory=Typed)
    notes: list[str] = field(default_factory=list)  # for the user to read


def problem(error: yaml.YAMLError) -> str:
    """What is wrong with a text, with what to do about it where that is known."""
    said = getattr(error, "problem", None) or str(error).splitlines()[0]
    return str(said) + next((f": {remedy}" for part, remedy in _REMEDIES.items() if part in said), "")


_REMEDIES = {
    r"'\t' that cannot start any token": "indent with spaces",
    "that cannot start any token": "put text that begins so in quotes",
    "mapping values are not allowed here": "text that contains ': ' stands in quotes, and the keys of one mapping begin in one column",
    "could not find expected ':'": "a line of a mapping is 'key: value'",
    "found undefined alias": "put text that begins with * in quotes",
    "expected alphabetic or numeric character": "put text that begins with * or & in quotes",
}
_KINDS = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}


def compose(text: str) -> yaml.Node | None:
    """The node of a text, None where it holds none. Raises ``yaml.YAMLError``."""
    loader = Loader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


class Reader:
    """Builds plain values from YAML nodes; only null, booleans, numbers, text, lists and mappings with text keys."""

    def __init__(self, source: Source, place: Callable[[yaml.Node], Origin]) -> None:
        self._source, self._place = source, place
        self._open: set[int] = set()  # nodes being read, to notice an alias to an enclosing one

    def read(self, text: str, path: KeyPath = ()) -> Any:
        """Raises ``yaml.YAMLError``."""
        node = compose(text)
        return None if node is None else self._value(node, path)

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        self._source.origins.setdefault(path, self._place(node))
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if node.tag not in _KINDS:
            return self._fault(node, path, f"this cannot be read: the tag {node.tag} means nothing in a recipe, leave it out")
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
        if node.tag == PLAIN:
            return plain_value(node.value)
        if node.tag != "tag:yaml.org,2002:str":
            return self._fault(node, path, f"{node.value!r} cannot be read: the tag {node.tag} means nothing in a recipe, leave it out")
        return node.value

    def _fault(self, node: yaml.Node, path: KeyPath, message: str) -> None:
        self._source.faults.append(Fault(self._place(node), path, message))


_MERGE = "tag:yaml.org,2002:merge"
