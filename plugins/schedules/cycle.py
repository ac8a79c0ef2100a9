"""``cycle``: a repeated pattern of updates, such as three of a cheap loop and one of the others."""

from __future__ import annotations

from collections.abc import Sequence


class Cycle:
    """Update u runs the loops of ``pattern[u % len(pattern)]``, in that order."""

    def __init__(self, *, pattern: list[list[str]]) -> None:
        if not pattern or not all(pattern):
            raise ValueError("pattern needs at least one update, and every update at least one loop")
        self.pattern = pattern

    def loops(self, update: int) -> Sequence[str]:
        return self.pattern[update % len(self.pattern)]
