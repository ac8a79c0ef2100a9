"""Paths among the engine's own keys, whose type is text: ``~`` in them is the user's home, as in components' parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core.contracts import UserError
from core.installed.home import home
from core.recipe.faults import KeyPath

ENGINE_PATHS = ("output", "start_from")


def expand(values: dict[str, Any], fault: Callable[[KeyPath, str], object]) -> None:
    """Replaces ``~`` in the engine's own paths, in place; ``fault`` gets what is wrong with one."""
    for key in ENGINE_PATHS:
        if isinstance(values.get(key), str) and values[key].startswith("~"):
            try:
                values[key] = str(home(values[key]))
            except UserError as error:
                fault((key,), str(error))
