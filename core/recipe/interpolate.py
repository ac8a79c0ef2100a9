"""``${...}``: OmegaConf resolves each value by itself, so that every fault is found and has its line."""

from __future__ import annotations

import difflib
import os
import re
from typing import Any

from omegaconf import Container, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.contracts import UserError
from core.installed.shipped import shipped
from core.recipe.environment import near_variable, variables
from core.recipe.faults import Fault, KeyPath, path_text
from core.recipe.reader import Source

_SHIPPED = re.compile(r"(?<!\\)\$\{shipped:([^}]*)\}")  # what comes with the toolkit, by its place in a checkout
_REFERENCE = re.compile(r"\$\{([\w.-]+)\}")


def resolve(source: Source) -> tuple[dict[str, Any], set[KeyPath]]:
    """Plain resolved values, and the paths whose value could not be found; their faults are added to the source."""
    broken: set[KeyPath] = set()
    written = len(source.faults)
    sound = _drop_malformed(source.values, (), source, broken)
    values = _resolved(sound, OmegaConf.create(sound), (), source, broken)
    following = _following(_texts(source.values, "${"), source.faults[written:], broken)
    source.faults[written:] = [fault for fault in source.faults[written:] if fault.path not in following]
    asked = {path: text for path, text in _texts(source.values, "oc.env").items() if path not in broken}
    names = set[str]().union(*map(variables, asked.values()))
    for path, text in asked.items():
        _near_misses(path, text, _at(values, path), names, source, broken)
    return values, broken


def _texts(values: Any, part: str, path: KeyPath = ()) -> dict[KeyPath, str]:
    """The texts that have ``part`` in them, by key path."""
    if isinstance(values, str):
        return {path: values} if part in values else {}
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return {place: text for key, value in items for place, text in _texts(value, part, (*path, key)).items()}


def _following(texts: dict[KeyPath, str], faults: list[Fault], broken: set[KeyPath]) -> set[KeyPath]:
    """The keys, added to ``broken``, that have no value because another one has none, which has a fault of its own."""
    circles = {fault.path for fault in faults if "Recursive interpolation" in fault.message}
    following: set[KeyPath] = set()
    while True:
        roots = {path_text(path) for path in broken}
        more = {path for path, text in texts.items() if path not in following | circles and _names_other(text, path, roots)}
        if not more:
            return following
        following |= more
        broken |= more


def _names_other(text: str, path: KeyPath, roots: set[str]) -> bool:
    """Whether a text refers to one of the keys ``roots``, to something in it or around it; to itself does not count."""
    named = set(_REFERENCE.findall(text)) - {path_text(path)}
    return any(root == name or root.startswith((f"{name}.", f"{name}[")) or name.startswith(f"{root}.") for name in named for root in roots)


def _at(values: Any, path: KeyPath) -> Any:
    """The value at a path, None where there is none."""
    for key in path:
        there = (isinstance(values, dict) and key in values) or (isinstance(values, list) and isinstance(key, int) and key < len(values))
        if not there:
            return None
        values = values[key]
    return values


def _near_misses(path: KeyPath, text: str, value: Any, asked: set[str], source: Source, broken: set[KeyPath]) -> None:
    """A default was taken although a variable of nearly the name is set: said, and a fault where nothing lies at the path it gives."""
    for name in variables(text):
        if name in os.environ or not (near := near_variable(name, asked)):
            continue
        said = f"the environment variable {name} is not set, but {near} is"
        if isinstance(value, str) and "/" in value and "://" not in value and not os.path.exists(os.path.expanduser(value)):
            _fault(source, path, f"{said}; the default gives {value}, which does not exist: correct one of the two names", broken)
        else:
            place = source.origins[_given_at(path, source)]
            source.notes.append(f"{place}: {path_text(path)}: {said}: the default {value!r} is used")


def _drop_malformed(value: Any, path: KeyPath, source: Source, broken: set[KeyPath]) -> Any:
    """The values without texts that OmegaConf cannot parse: because of one of them it would refuse all values."""
    if isinstance(value, dict):
        return {key: _drop_malformed(item, (*path, key), source, broken) for key, item in value.items()}
    if isinstance(value, list):
        return [_drop_malformed(item, (*path, index), source, broken) for index, item in enumerate(value)]
    if value == "???":
        _fault(source, path, "a value must be given here", broken)
        return None
    if isinstance(value, str):
        try:
            value = _SHIPPED.sub(lambda found: str(shipped(found[1].strip())), value)
        except UserError as error:
            _fault(source, path, str(error), broken)
            return None
        try:
            OmegaConf.create({"value": value})
        except OmegaConfBaseException as error:
            _fault(source, path, f"malformed interpolation {value!r}: {_first_line(error)}", broken)
            return None
    return value


def _resolved(value: Any, config: Any, path: KeyPath, source: Source, broken: set[KeyPath]) -> Any:
    if isinstance(value, dict):
        return {key: _item(item, config, key, (*path, key), source, broken) for key, item in value.items()}
    return [_item(item, config, index, (*path, index), source, broken) for index, item in enumerate(value)]


def _item(value: Any, parent: Any, key: str | int, path: KeyPath, source: Source, broken: set[KeyPath]) -> Any:
    if path in broken:
        return None
    if isinstance(value, dict | list):
        return _resolved(value, parent[key], path, source, broken)
    if not isinstance(value, str) or "${" not in value:
        return value
    try:
        found = parent[key]
        return OmegaConf.to_container(found, resolve=True) if isinstance(found, Container) else found
    except OmegaConfBaseException as error:
        _unresolved(value, _first_line(error), path, source, broken)
        return None


def _unresolved(text: str, reason: str, path: KeyPath, source: Source, broken: set[KeyPath]) -> None:
    if variable := re.search(r"Environment variable '(.+?)' not found", reason):
        name = variable[1]
        if name not in variables(text):  # a reference to a key that has its own fault
            broken.add(path)
            return
        near = near_variable(name, variables(text))
        remedy = f"{near} is, correct one of the two names" if near else f"set it, or give a default: ${{oc.env:{name},DEFAULT}}"
        reason = f"the environment variable {name} is not set{', but ' if near else ': '}{remedy}"
    elif missing := re.search(r"Interpolation key '(.+?)' not found", reason):
        if missing[1] not in text:
            broken.add(path)
            return
        near = _nearest(missing[1].lstrip("."), path, source)
        reason = f"{text!r} refers to {missing[1]!r}, which is not given" + (f", did you mean {near!r}?" if near else "")
    elif not isinstance(source.values.get("data", {}), dict) and "${data." in text:
        broken.add(path)  # `data` is no mapping, which is a fault of its own
        return
    else:
        reason = f"{text!r} cannot be resolved: {reason}"
    _fault(source, path, reason, broken)


def _nearest(name: str, path: KeyPath, source: Source) -> str | None:
    """A key with nearly this name, first among those beside it; never the key that is being given, nor one around it."""
    known = [path_text(place) for place in source.origins if place and path[: len(place)] != place]
    beside = [one for one in known if one.rpartition(".")[0] == name.rpartition(".")[0]]
    return next(iter(difflib.get_close_matches(name, beside, n=1) or difflib.get_close_matches(name, known, n=1)), None)


def _fault(source: Source, path: KeyPath, message: str, broken: set[KeyPath]) -> None:
    broken.add(path)
    source.faults.append(Fault(source.origins[_given_at(path, source)], path, message))


def _given_at(path: KeyPath, source: Source) -> KeyPath:
    """The key itself, or the nearest one around it that was written."""
    return next(path[:n] for n in range(len(path), -1, -1) if path[:n] in source.origins)


def _first_line(error: OmegaConfBaseException) -> str:
    return str(error).splitlines()[0]
