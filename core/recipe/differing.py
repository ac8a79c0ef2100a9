"""Where two recipes differ once each is resolved, the components' own defaults included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from core.recipe.faults import DEFAULT, KeyPath
from core.recipe.recipe import Recipe
from core.recipe.resolved import resolved_values
from core.recipe.scalars import one_line
from core.registry import Registry

_ABSENT = object()


@dataclass(frozen=True)
class Value:
    """A value as one line of YAML, and where it was written."""

    text: str
    origin: str


def differing(one: Recipe, other: Recipe, registry: Registry) -> Iterator[tuple[KeyPath, Value | None, Value | None]]:
    """Each key whose value is not the same in both, with its value in each; None: that recipe has no such key. Both passed ``check``."""
    for path, left, right in _unequal(resolved_values(one, registry), resolved_values(other, registry), ()):
        yield path, _value(left, path, one), _value(right, path, other)


def _unequal(left: dict[str, Any], right: dict[str, Any], path: KeyPath) -> Iterator[tuple[KeyPath, Any, Any]]:
    """A mapping is looked into, also where the other has none of it; a list is one value."""
    for key in [*left, *(key for key in right if key not in left)]:
        values = left.get(key, _ABSENT), right.get(key, _ABSENT)
        inside = [{} if value is _ABSENT else value for value in values]
        if any(inside) and all(isinstance(value, dict) for value in inside):
            yield from _unequal(inside[0], inside[1], (*path, key))
        elif not _same(*values):
            yield (*path, key), *values


def _same(value: Any, other: Any) -> bool:
    """``3`` and ``3.0`` are one number; ``true`` is none, and NaN is what it is."""
    if value is _ABSENT or other is _ABSENT:
        return False
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (value, other))
    return (numbers and value == other) or one_line(value) == one_line(other)


def _value(value: Any, path: KeyPath, recipe: Recipe) -> Value | None:
    if value is _ABSENT:
        return None
    around: Any = recipe.values
    for key in path:
        if not isinstance(around, dict) or key not in around:  # a component's own default
            return Value(one_line(value), str(DEFAULT))
        around = around[key]
    return Value(one_line(value), recipe.origin(path))
