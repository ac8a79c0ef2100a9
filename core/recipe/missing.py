"""Paths of a recipe that do not exist: where each was given, what belongs there, and how the recipe says that it is made."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from core.recipe.environment import variables
from core.recipe.faults import path_text
from core.recipe.recipe import Recipe, components_used
from core.registry import Registry

_DATA = re.compile(r"\$\{data\.([\w.-]+)\}")
_LAYOUT = re.compile(r"(?:\A|\n)[ \t]*(Layout\b.*?)(?:\.\s|\.?\s*\Z|\n\s*\n)", re.DOTALL)


def missing_paths(recipe: Recipe, registry: Registry, paths: Sequence[tuple[str, Path, bool, str]]) -> Iterator[str]:
    """A line for each path of a ``path_report`` that does not exist, and one for each command that the recipe's first lines give for it."""
    owners = {path_text(path): component.object for path, component in components_used(recipe, registry)}
    keys: dict[Path, list[tuple[str, str]]] = {}
    for key, path, found, origin in paths:
        if not found:
            keys.setdefault(path, []).append((key, origin))
    for path, given in keys.items():
        (key, origin), *more = given
        others = f" and {len(more)} more key{'s' * (len(more) > 1)}" if more else ""
        layout = next((f"; {text}" for owner in _around(key) if (text := layout_of(owners.get(owner)))), "")
        yield f"{origin}: {key}{others}: {path} does not exist{variable_of(recipe, key)}{layout}"
    for command in dict.fromkeys(command for path in keys for command in _commands(recipe, path)):
        yield f"{recipe.file}: its first lines say how to make what is missing: {command}"


def variable_of(recipe: Recipe, key: str) -> str:
    """``; set NAME``: the environment variable that a key is read from, by itself or through ``data``; empty without one."""
    place = tuple(int(part) if part.isdigit() else part for part in key.split("."))
    texts = [recipe.from_environment.get(place, "")]
    for name in _DATA.findall(recipe.variables.get(place, "")):
        texts.append(recipe.from_environment.get(("data", *name.split(".")), ""))
    names = sorted(set[str]().union(*map(variables, texts)))
    return "".join(f"; {name} gives it" if name in os.environ else f"; set {name}" for name in names)


def layout_of(component: Any) -> str:
    """What the sentence that begins with "Layout", in a component's docstring or its module's, says of its files; empty without one."""
    module = sys.modules.get(getattr(component, "__module__", ""))
    for text in (getattr(component, "__doc__", None), getattr(module, "__doc__", None)):
        if found := _LAYOUT.search(text or ""):
            return " ".join(found[1].replace("``", "").split())
    return ""


def _around(key: str) -> list[str]:
    """The key paths around a key, the nearest first."""
    parts = key.split(".")
    return [".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1)]


def _commands(recipe: Recipe, path: Path) -> list[str]:
    """Lines of the comment at the recipe's beginning that are commands and name the path or a folder around it."""
    if not recipe.file.is_file():  # a pipe is read once
        return []
    places = {str(path), *(str(folder) for folder in path.parents if folder.name)}
    lines = recipe.file.read_text(encoding="utf-8").splitlines()
    head = lines[: next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    return [line[1:].strip() for line in head if line.startswith("#   ") and places & set(line.split())]
