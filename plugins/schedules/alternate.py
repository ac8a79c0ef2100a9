"""All loops in every update, in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence


class Alternate:
    """Every update runs each loop of ``order`` once, one after the other, before the one optimizer step."""

    def __init__(self, *, order: list[str]) -> None:
        if not order:
            raise ValueError("order must name at least one loop.")
        if len(set(order)) < len(order):
            raise ValueError(f"order must name each loop once, not {order}.")
        self.order = tuple(order)

    def loops(self, update: int) -> Sequence[str]:
        """The same for every update."""
        return self.order
