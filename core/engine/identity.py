"""What the models of a recipe say that their keys name (``TellsIdentity``); nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from core.contracts import TellsIdentity
from core.recipe import KeyPath, Recipe, build, components_used
from core.registry import Registry


def identities(recipe: Recipe, registry: Registry) -> Iterator[tuple[KeyPath, str]]:
    """(place in the recipe, sentence) of each model that says something."""
    for path, component in components_used(recipe, registry):
        if isinstance(component.object, TellsIdentity):
            given: Any = recipe.values
            for key in path:
                given = given[key]
            if said := component.object.identity(**{key: build(recipe, (*path, key), registry) for key in given if key != "use"}):
                yield path, said
