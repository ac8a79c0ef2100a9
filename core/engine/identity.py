"""What the models of a recipe say that their keys name (``TellsIdentity``); nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterator

from core.contracts import TellsIdentity
from core.recipe import KeyPath, Recipe, built_keys, components_used
from core.registry import Registry


def identities(recipe: Recipe, registry: Registry) -> Iterator[tuple[KeyPath, str]]:
    """(place in the recipe, sentence) of each model that says something."""
    for path, component in components_used(recipe, registry):
        told = component.object
        said = told.identity(**built_keys(recipe, path, registry)) if isinstance(told, TellsIdentity) else ""
        if said:
            yield path, said
