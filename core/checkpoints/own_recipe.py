"""A run's own recipe, read from its folder: from whatever folder the command is started, with settings for what has moved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from core.contracts import UserError
from core.engine.which_run import MADE_OF, read
from core.installed.home import home
from core.recipe import Recipe, load
from core.recipe.faults import COMMAND_LINE


def own_recipe(run: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in the folder of ``run`` with ``overrides``.

    A relative path that leads nowhere from the current folder means what it meant where the run was begun. Raises ``UserError`` for a
    variable of ``data`` that nothing in the recipe takes.
    """
    file = run / "recipe.yaml"
    recipe = load(file, overrides)
    paths: dict[str, list[str]] = read(run / MADE_OF).get("paths", {})
    _require_used(file, overrides, list(paths))
    if moved := dict(_found_where_begun(recipe, paths)):
        recipe = load(file, [*(f"{key}={place}" for key, place in moved.items()), *overrides])
    return recipe


def _found_where_begun(recipe: Recipe, paths: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    for key, (written, place) in paths.items():
        parts = tuple(int(part) if part.isdigit() else part for part in key.split("."))
        if _value(recipe.values, parts) != written or recipe.origins.get(parts) == COMMAND_LINE:
            continue
        if not home(written).is_absolute() and not home(written).exists() and Path(place).exists():
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
