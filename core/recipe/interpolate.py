"""``${...}``: OmegaConf resolves each value by itself, so that every fault is found and has its line."""

from __future__ import annotations

import difflib
import re
from typing import Any

from omegaconf import Container, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.contracts import UserError
from core.installed.shipped import shipped
from core.recipe.faults import Fault, KeyPath, path_text
from core.recipe.source import Source

_SHIPPED = re.compile(r"(?<!\\)\$\{shipped:([^}]*)\}")  # what comes with the toolkit, by its place in a checkout


def resolve(source: Source) -> tuple[dict[str, Any], set[KeyPath]]:
    """Plain resolved values, and the paths whose value could not be found; their faults are added to the source."""
    broken: set[KeyPath] = set()
    sound = _drop_malformed(source.values, (), source, broken)
    return _resolved(sound, OmegaConf.create(sound), (), source, broken), broken


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
        if "oc.env" not in text:  # a reference to a key that has its own fault
            broken.add(path)
            return
        name = variable[1]
        reason = f"the environment variable {name} is not set: set it, or give a default: ${{oc.env:{name},DEFAULT}}"
    elif missing := re.search(r"Interpolation key '(.+?)' not found", reason):
        near = difflib.get_close_matches(missing[1].lstrip("."), [path_text(place) for place in source.origins if place], n=1)
        reason = f"{text!r} refers to {missing[1]!r}, which is not given" + (f", did you mean {near[0]!r}?" if near else "")
    else:
        reason = f"{text!r} cannot be resolved: {reason}"
    _fault(source, path, reason, broken)


def _fault(source: Source, path: KeyPath, message: str, broken: set[KeyPath]) -> None:
    broken.add(path)
    place = next(path[:n] for n in range(len(path), -1, -1) if path[:n] in source.origins)
    source.faults.append(Fault(source.origins[place], path, message))


def _first_line(error: OmegaConfBaseException) -> str:
    return str(error).splitlines()[0]
