"""Values of components that move with the updates: the engine sets each of them before an update, and logs it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from core.recipe.faults import KeyPath, path_text
from core.recipe.moving import Moving


@dataclass(frozen=True)
class MovingValue:
    """One key of the recipe, ``path``, whose value ``owner`` keeps as an attribute of the key's name."""

    path: KeyPath
    owner: Any
    moving: Moving


def move(values: Iterable[MovingValue], update: int) -> dict[str, float]:
    """Sets all of them to what they are in ``update`` (from 0); returns them by key path, for the log."""
    said: dict[str, float] = {}
    for one in values:
        value = one.moving.at(update)
        setattr(one.owner, str(one.path[-1]), value)
        said[path_text(one.path)] = float(value)
    return said
