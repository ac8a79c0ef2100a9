"""What the loops of a recipe say about themselves."""

from __future__ import annotations

from collections.abc import Iterator

from core.contracts import WithinBatch
from core.preflight.finding import Finding
from core.recipe import Recipe, components_used, path_text
from core.registry import Registry


def within_batch(recipe: Recipe, registry: Registry) -> Iterator[Finding]:
    """A warning for each task whose loop compares the regions of a micro-batch (``WithinBatch``)."""
    size = recipe.values["train"]["batch_size"]
    for path, component in components_used(recipe, registry):
        if component.entry.kind == "loops" and isinstance(component.object, WithinBatch) and component.object.within_batch:
            compared = f"compares the {size} regions of a micro-batch with each other"
            if size == 1:
                yield Finding("warn", path_text(path), f"{compared}, and there is nothing to compare: give train.batch_size more")
            else:
                yield Finding("warn", path_text(path), f"{compared}: the result depends on train.batch_size and on the number of processes")
