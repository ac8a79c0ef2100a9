"""The loops take turns, one in each update."""

from __future__ import annotations

from collections.abc import Sequence

import a_module_that_nobody_has as nowhere  # the fault that this example is about


class BrokenTurns:
    """Update u runs the loop ``order[u mod n]`` alone."""

    def __init__(self, *, order: list[str]) -> None:
        if not order:
            raise ValueError("order must name at least one loop.")
        self.order = order

    nowhere = nowhere

    def loops(self, update: int) -> Sequence[str]:
        return [self.order[update % len(self.order)]]
