"""A recipe file with its one base below it and ``key=value`` of the command line above it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from core.contracts import UserError
from core.installed.home import home
from core.recipe.faults import COMMAND_LINE, Fault, KeyPath, Origin
from core.recipe.reader import Reader, Source, compose, problem
from core.recipe.scalars import PLAIN, plain_value


def read(file: Path, overrides: Sequence[str] = ()) -> Source:
    """A recipe with its base and overrides merged. Raises ``UserError`` when the file itself cannot be read."""
    source = _read_file(file)
    if "base" in source.values:
        source = _with_base(source, file)
    override_all(source, overrides)
    return source


def override_all(source: Source, words: Sequence[str]) -> None:
    """Sets what each word says; words that belong together and were written apart are one fault."""
    left, before = list(words), ""
    while left:
        word = left.pop(0)
        apart = [word]
        while left and ("=" not in word or word.endswith("=")) and "=" not in left[0].strip("="):
            apart.append(left.pop(0))
        parts = [part.strip("=") for part in apart if part.strip("=")]
        if len(apart) == 1 and "=" in word[1:]:
            override(source, before := word)
            continue
        remedy = f"write {parts[0]}={' '.join(parts[1:])}, as one word" if len(parts) > 1 else "write key.path=value"
        if "=" not in word and before:
            remedy += f"; if it belongs to the word before, put both in quotes: '{before} {word}'"
        source.faults.append(Fault(COMMAND_LINE, (), f"{' '.join(apart)!r} is no override: {remedy}"))


def _read_file(file: Path) -> Source:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"the recipe {file} cannot be read: {reason}") from error
    source = Source()
    top = Origin(str(file), 1)
    try:
        values = Reader(source, lambda node: Origin(str(file), node.start_mark.line + 1)).read(text)
    except yaml.YAMLError as error:
        source.readable = False
        mark = getattr(error, "problem_mark", None)
        source.faults.append(Fault(Origin(str(file), mark.line + 1 if mark else 1), (), f"this is not YAML: {problem(error)}"))
        return source
    if isinstance(values, dict):
        source.values = values
    else:
        source.readable = False
        source.faults.append(Fault(top, (), "a recipe is a mapping of keys to values, and this file holds none"))
    source.origins.setdefault((), top)
    return source


def _with_base(child: Source, file: Path) -> Source:
    """The base with the child laid over it."""
    name, origin = child.values.pop("base"), child.origins[("base",)]
    missing = "expected the path of one recipe, relative to this file"
    if isinstance(name, str) and name:
        base_file = file.parent / home(name)
        if base_file.is_file():
            return _laid_over(base_file, child, origin)
        others = {one.stem: one.name for one in base_file.parent.glob("*.y*ml") if one.name != file.name}
        near = difflib.get_close_matches(base_file.stem, others, n=1)
        missing = f"there is no file {base_file}" + (f", did you mean {others[near[0]]!r}?" if near else "")
        missing = f"{base_file} is a folder, not a recipe" if base_file.is_dir() else missing
    child.faults.append(Fault(origin, (), f"base: {missing}"))
    child.values, child.readable = {}, False  # what else seems wrong may be so because the base is missing
    return child


def _laid_over(base_file: Path, child: Source, origin: Origin) -> Source:
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
    keys = dotted.strip().split(".")
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
    above = Source(origins={path: COMMAND_LINE})
    value = _typed_value(above, written.strip(), path)
    source.faults += above.faults
    source.typed.forget(path)
    source.typed.texts |= above.typed.texts
    source.typed.unread |= above.typed.unread
    if isinstance(parent, dict) and isinstance(value, dict) and isinstance(parent.get(last), dict) and "use" not in value:
        above.values = _nested(path, value)
        lay_over(source, above, path)
    else:
        if last == "use" and parent.get(last) not in (None, value):
            source.exchanged.add(path[:-1])
        parent[last] = value
        _forget(source.origins, path)
        source.origins |= above.origins


def _typed_value(above: Source, written: str, path: KeyPath) -> Any:
    """The value of a text from the command line, where nothing is a comment; ``above.typed`` keeps the text if the value is none."""
    try:
        node = compose(written)
        if node is None or node.tag == PLAIN or node.end_mark.index < len(written):
            value = plain_value(written)
        else:
            value = Reader(above, lambda node: COMMAND_LINE).read(written, path)
    except yaml.YAMLError as error:
        above.typed.unread[path] = problem(error)
        return written
    quoted = isinstance(node, yaml.ScalarNode) and node.tag != PLAIN
    if value is not None and not isinstance(value, str) and not quoted and "${" not in written:
        above.typed.texts[path] = written
    return value


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
