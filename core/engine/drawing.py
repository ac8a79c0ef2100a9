"""One micro-batch: its samples drawn and prepared, bad ones replaced and noted. Runs in the loader's workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core.contracts import BadSample, Preparation, RegionBatch, UserError
from core.engine.plan import Plan, Slot

MAX_ATTEMPTS = 20  # draws for one slot before its source is called unusable


@dataclass(frozen=True)
class BadDraw:
    """A sample that was drawn and could not be used."""

    update: int
    source: str  # its path
    reason: str
    sample: str
    detail: str


@dataclass
class MicroBatch:
    """What one backward pass sees: the samples of each task together, and what was wrong with others."""

    loop: str
    parts: list[tuple[str, RegionBatch]]  # (task, batch)
    drawn: Counter[str]  # source path -> draws
    bad: list[BadDraw]

    @property
    def ids(self) -> dict[str, list[str]]:
        """Sample ids of each task."""
        return {task: batch.ids for task, batch in self.parts}


@dataclass(frozen=True)
class Request:
    """The slots of one micro-batch."""

    loop: str
    slots: tuple[Slot, ...]


@dataclass(frozen=True)
class _Drawn:
    """What the preparations made of a region, and what they do not carry on."""

    prepared: Any
    for_teacher: Any
    category: str | None
    extra: Mapping[str, Any]


class Drawing:
    """Maps a request to its micro-batch.

    A ``UserError`` is returned, not raised: it is told when the micro-batch's turn comes, by whichever process made it.
    """

    def __init__(self, plans: Mapping[str, Plan], preparation: Preparation, teacher_preparation: Preparation | None = None) -> None:
        """``plans``: of each loop. ``teacher_preparation``: that of a teacher which prepares its own; what either refuses is bad."""
        self.plans, self.preparation, self.teacher_preparation = plans, preparation, teacher_preparation

    def __call__(self, request: Request) -> MicroBatch | UserError:
        try:
            return self._micro_batch(request)
        except UserError as error:
            return error

    def _micro_batch(self, request: Request) -> MicroBatch:
        plan, micro = self.plans[request.loop], MicroBatch(request.loop, [], Counter(), [])
        by_task: dict[str, list[_Drawn]] = {}
        for slot in request.slots:
            by_task.setdefault(plan.sources[slot.source].task, []).append(self._draw(plan, slot, micro))
        micro.parts = [(task, self._collated(drawn)) for task, drawn in sorted(by_task.items())]
        return micro

    def _collated(self, drawn: Sequence[_Drawn]) -> RegionBatch:
        """What no preparation knows of is filled in here: categories, further fields, and the teacher's own batch."""
        batch = self.preparation.collate([one.prepared for one in drawn])
        batch.categories = [one.category for one in drawn]
        batch.extra = [one.extra for one in drawn]
        if self.teacher_preparation is not None:
            batch.for_teacher = self.teacher_preparation.collate([one.for_teacher for one in drawn])
        return batch

    def _draw(self, plan: Plan, slot: Slot, micro: MicroBatch) -> _Drawn:
        source, index = plan.sources[slot.source], slot.index
        last: BadSample | None = None
        for attempt in range(1, MAX_ATTEMPTS + 1):
            micro.drawn[source.path] += 1
            try:
                region = plan.region(slot, index)
                # one id space over all sources: noise is derived from it
                region = replace(region, id=f"{source.name}/{region.id}")
                prepared = self.preparation(region, source.needs)
                theirs = None if self.teacher_preparation is None else self.teacher_preparation(region, source.needs)
                return _Drawn(prepared, theirs, region.category, region.extra)
            except BadSample as bad:
                micro.bad.append(BadDraw(slot.update, source.path, bad.reason, bad.sample, bad.detail))
                last, index = bad, plan.replacement(slot, attempt)
            except UserError:
                raise
            except Exception as error:  # a data set's own: it goes on, with the place where it came up
                error.add_note(f"{source.path}, sample number {index}")
                raise
        raise UserError(
            f"{source.path}: {MAX_ATTEMPTS} draws in a row were bad, the last one {last}; check the data set's folder and options"
        )
