"""Paths as recipes write them: ``~`` is the user's home, in components' parameters and in the engine's own keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.contracts import UserError
from core.recipe.faults import KeyPath

ENGINE_PATHS = ("output", "start_from")  # top-level keys that are paths and whose type is text


def home(written: Path | str) -> Path:
    """The path with ``~`` replaced. Raises ``UserError`` for ``~name`` where there is no such user."""
    try:
        return Path(written).expanduser()
    except RuntimeError:
        raise UserError(f"{written}: there is no home folder of that name; write ./{written} for a path that begins with ~") from None


def expand(values: dict[str, Any], fault: Callable[[KeyPath, str], object]) -> None:
    """Replaces ``~`` in the engine's own paths, in place; ``fault`` gets what is wrong with one."""
    for key in ENGINE_PATHS:
        if isinstance(values.get(key), str) and values[key].startswith("~"):
            try:
                values[key] = str(home(values[key]))
            except UserError as error:
                fault((key,), str(error))
