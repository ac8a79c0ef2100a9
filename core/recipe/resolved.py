"""The merged recipe as YAML again, with the origin of each value beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.recipe.faults import KeyPath, Origin
from core.recipe.plan import Node, nodes
from core.recipe.recipe import Recipe, plan_of
from core.recipe.scalars import one_line
from core.registry import Registry, is_local, local_path


def resolved_yaml(recipe: Recipe, registry: Registry | None = None, beside: bool = False) -> str:
    """A recipe that gives the same run without base, overrides or environment.

    With a registry the components' own defaults are written out. ``beside``: as a run's folder keeps it. Local files are named as lying
    beside the recipe, where the folder has copies of them (``local_files``), and ``${data.NAME}`` stays, so that data can be moved.
    """
    defaults = _defaults(plan_of(recipe, registry).root) if registry is not None else {}
    return "\n".join(_lines(recipe.values, (), recipe, defaults, beside)) + "\n"


def resolved_values(recipe: Recipe, registry: Registry) -> dict[str, Any]:
    """The recipe's values with the components' own defaults: equal for two recipes that mean the same run."""
    return _filled(recipe.values, (), recipe, _defaults(plan_of(recipe, registry).root))


def _filled(values: dict[str, Any], path: KeyPath, recipe: Recipe, defaults: dict[KeyPath, dict[str, Any]]) -> dict[str, Any]:
    own = {key: recipe.shipped.get((*path, key), value) for key, value in values.items()}
    own = {key: _filled(value, (*path, key), recipe, defaults) if isinstance(value, dict) else value for key, value in own.items()}
    return own | {key: str(value) if isinstance(value, Path) else value for key, value in defaults.get(path, {}).items()}


def _defaults(root: Node) -> dict[KeyPath, dict[str, Any]]:
    """For each component and record the defaults of keys that are not given, where YAML can write them."""
    found = {
        node.path: {p.name: p.default for p in node.fields if p.name not in node.children and _writable(p.default)} for node in nodes(root)
    }
    return {path: defaults for path, defaults in found.items() if defaults}


def default_values(recipe: Recipe, registry: Registry) -> dict[KeyPath, Any]:
    """The default of each key that components and records of the recipe take, given or not, where YAML can write it; paths as text."""
    found = [(node.path, p.name, p.default) for node in nodes(plan_of(recipe, registry).root) for p in node.fields if _writable(p.default)]
    return {(*path, name): str(default) if isinstance(default, Path) else default for path, name, default in found}


def _writable(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _writable(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_writable, value))
    return value is None or isinstance(value, bool | int | float | str | Path)


def _lines(values: dict[str, Any], path: KeyPath, recipe: Recipe, defaults: dict[KeyPath, dict[str, Any]], beside: bool) -> list[str]:
    lines = []
    own = {key: (value, recipe.locate((*path, key))) for key, value in values.items()}
    added = {key: (value, Origin("default")) for key, value in defaults.get(path, {}).items()}
    for key, (value, origin) in (own | added).items():
        here, indent = (*path, key), "  " * len(path)
        if key == "use" and beside and isinstance(value, str) and is_local(value):
            file = local_path(value, origin.folder)
            value = f"./{file.name}:{value.rpartition(':')[2]}" if file else value
        if isinstance(value, dict) and (value or defaults.get(here)) and key not in added:
            lines += [f"{indent}{one_line(key)}:", *_lines(value, here, recipe, defaults, beside)]
        else:
            # a shipped file has another path on another machine
            text = recipe.shipped[here] if here in recipe.shipped else _plain(value, here, recipe.variables if beside else {})
            lines.append(f"{indent}{one_line(key)}: {one_line(text)}  # {origin}")
    return lines


def _plain(value: Any, here: KeyPath, variables: Mapping[KeyPath, str]) -> Any:
    """Plain YAML values that mean themselves: a literal ``${`` stays one. Those of ``variables`` are as they were written."""
    if here in variables:
        return variables[here]
    if isinstance(value, dict):
        return {key: _plain(item, (*here, key), variables) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, (*here, index), variables) for index, item in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    return value.replace("${", "\\${") if isinstance(value, str) else value
