"""A run's own recipe, read from its folder: from whatever folder the command is started, with settings for what has moved."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from core.contracts import UserError
from core.engine.which_run import MADE_OF, read
from core.installed.home import home
from core.recipe import Recipe, load
from core.recipe.faults import COMMAND_LINE

_VARIABLE = re.compile(r"\$\{data\.([\w.-]+)\}")


def own_recipe(run: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in the folder of ``run`` with ``overrides``.

    A relative path that leads nowhere from the current folder means what it meant where the run was begun. Raises ``UserError`` for a
    variable of ``data`` that nothing in the recipe takes.
    """
    file = run / "recipe.yaml"
    recipe = load(file, overrides)
    made_of = read(run / MADE_OF)
    paths: dict[str, list[str]] = made_of.get("paths", {})
    _require_used(file, overrides, list(paths))
    if moved := dict(_found_where_begun(recipe, paths, Path(made_of.get("started_in", ".")))):
        recipe = load(file, [*(f"{key}={place}" for key, place in moved.items()), *overrides])
    return recipe


def _found_where_begun(recipe: Recipe, paths: dict[str, list[str]], began_in: Path) -> Iterator[tuple[str, str]]:
    """(key, absolute path) of what is not found from here; where ``data.NAME`` gives it, of that, so that it can still be given later."""
    for key, (written, place) in paths.items():
        parts = tuple(int(part) if part.isdigit() else part for part in key.split("."))
        if _value(recipe.values, parts) != written or recipe.origins.get(parts) == COMMAND_LINE:
            continue
        if home(written).is_absolute() or home(written).exists() or not Path(place).exists():
            continue
        for name in _VARIABLE.findall(recipe.variables.get(parts, "")):
            value = _value(recipe.values, ("data", *name.split(".")))
            if isinstance(value, str) and not home(value).is_absolute() and (began_in / value).exists():
                yield f"data.{name}", str(began_in / value)
                break
        else:
            yield key, place


def _value(values: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        inside = (isinstance(values, dict) and key in values) or (isinstance(values, list) and isinstance(key, int) and key < len(values))
        values = values[key] if inside else None
    return values


def _require_used(file: Path, overrides: Sequence[str], paths: Sequence[str]) -> None:
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    for word in overrides:
        key, equals, _ = word.partition("=")
        if equals and key.startswith("data.") and f"${{{key}" not in text and not any(f"${{{part}" in text for part in _around(key)):
            given = f", such as {paths[0]}=..." if paths else ""
            raise UserError(f"{word}: nothing in {file} takes ${{{key}}}, so it would change nothing; give the keys of the paths{given}")


def _around(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:n]) + "}" for n in range(2, len(parts))]
