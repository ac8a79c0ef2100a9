"""The loops take turns, one in each update."""

from __future__ import annotations

from collections.abc import Sequence


class TemplateName:
    """Update u runs the loop ``order[u mod n]`` alone."""

    def __init__(self, *, order: list[str]) -> None:
        if not order:
            raise ValueError("order must name at least one loop.")
        self.order = order

    def loops(self, update: int) -> Sequence[str]:
        return [self.order[update % len(self.order)]]
