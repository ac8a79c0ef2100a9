"""``stages``: different loops in different parts of a run, such as a warm-up before the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.contracts import Count


@dataclass(frozen=True)
class Stage:
    """``loops`` take part, in this order, until update ``until`` (not included); the last stage has no end."""

    loops: list[str]
    until: Count | None = None


class Stages:
    """The current stage is the first one whose ``until`` is greater than the update."""

    def __init__(self, *, stages: list[Stage]) -> None:
        ends = [stage.until for stage in stages]
        if not stages or ends[-1] is not None or None in ends[:-1]:
            raise ValueError("stages: every stage but the last needs 'until', and the last must not have one")
        given = [end for end in ends if end is not None]
        if given != sorted(set(given)) or any(not stage.loops for stage in stages):
            raise ValueError("stages: 'until' must grow from stage to stage, and every stage needs a loop")
        self.stages = stages

    def loops(self, update: int) -> Sequence[str]:
        return next(stage.loops for stage in self.stages if stage.until is None or update < stage.until)
