"""What an update asks of the teacher, and what a teacher that is another model asks of the feed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from core.contracts import Model, Preparation, PreparesItsOwn, RegionBatch, Teacher, Tokens, teacher_captions

ROWS = 32  # regions that are described at once: each takes memory for its keys and values, 80 MiB at 4B


def teacher_preparation(teacher: Teacher | None, model: Model) -> Preparation | None:
    """The preparation by which the feed makes ``RegionBatch.for_teacher``; None where the student's serves for both."""
    if not isinstance(teacher, PreparesItsOwn) or teacher.preparation == model.preparation:
        return None
    return teacher.preparation


class Together:
    """The teacher of one task in one update, in which it does not change: micro-batches are described together, up to ``ROWS`` regions.

    So tokens are written one after another once, not once for each micro-batch. What each region is described with is as when its
    micro-batch were described alone, but for rounding. The pictures of first views are encoded once more for it.
    """

    def __init__(self, teacher: Teacher, model: Model, batches: Sequence[RegionBatch], device: str) -> None:
        """``batches``: those of the task, in the order of its micro-batches."""
        self.teacher, self.model, self.batches, self.device = teacher, model, batches, device
        self.written: dict[tuple[int, int], Tokens] = {}  # (number of the batch, length) -> captions that are not yet asked for

    def of(self, number: int, batch: RegionBatch) -> Teacher:
        """The teacher as the loop sees it that is given ``batch``, which is number ``number`` on the device."""
        return _OfBatch(self, number, batch) if len(self._beside(number)) > 1 else self.teacher

    def captions(self, number: int, length: int) -> Tokens:
        if (number, length) not in self.written:
            several = self._beside(number)
            whole = joined([first_views(self.batches[one]) for one in several]).to(self.device)
            with self.model.computing(training=False):
                tokens = teacher_captions(self.teacher, self.model, self.model.encode(whole), whole, length)
            for one, part in zip(several, split(tokens, [len(self.batches[one]) for one in several]), strict=True):
                self.written[one, length] = part
        return self.written.pop((number, length))

    def _beside(self, number: int) -> list[int]:
        """The numbers of the micro-batches that are described with this one."""
        groups: list[list[int]] = [[]]
        rows = 0
        for one, batch in enumerate(self.batches):
            if groups[-1] and rows + len(batch) > ROWS:
                groups.append([])
                rows = 0
            groups[-1].append(one)
            rows += len(batch)
        return next(group for group in groups if number in group)


class _OfBatch:
    """Obeys ``Teacher`` and ``WritesCaptions``: everything but the captions of its batch is the teacher's own."""

    def __init__(self, together: Together, number: int, batch: RegionBatch) -> None:
        self._together, self._number, self._batch = together, number, batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._together.teacher, name)

    def captions(self, model: Model, vision: Any, batch: RegionBatch, length: int) -> Tokens:
        if batch is not self._batch or model is not self._together.model:  # a batch that the loop made itself
            return teacher_captions(self._together.teacher, model, vision, batch, length)
        return self._together.captions(self._number, length)


def first_views(batch: RegionBatch) -> RegionBatch:
    """The same regions with the pictures of their first views alone."""
    pictures, rows = batch.view1.unique(return_inverse=True)
    chosen = pictures.tolist()
    tiles = batch.tiles.split(batch.tile_counts)
    return RegionBatch(
        ids=batch.ids,
        captions=batch.captions,
        tiles=torch.cat([tiles[one] for one in chosen]),
        tile_counts=[batch.tile_counts[one] for one in chosen],
        grids=[batch.grids[one] for one in chosen],
        sam_pictures=batch.sam_pictures[chosen],
        view1=rows,
        view2=rows,
        cells=batch.cells,
        mask1=batch.mask1,
        mask2=batch.mask1,
        categories=batch.categories,
        extra=batch.extra,
        for_teacher=None if batch.for_teacher is None else first_views(batch.for_teacher),
    )


def joined(batches: Sequence[RegionBatch]) -> RegionBatch:
    """Batches as one."""
    starts = [sum(len(batch.grids) for batch in batches[:number]) for number in range(len(batches))]  # of each one's pictures
    teachers = [batch.for_teacher for batch in batches if batch.for_teacher is not None]
    return RegionBatch(
        ids=[one for batch in batches for one in batch.ids],
        captions=[one for batch in batches for one in batch.captions],
        tiles=torch.cat([batch.tiles for batch in batches]),
        tile_counts=[one for batch in batches for one in batch.tile_counts],
        grids=[one for batch in batches for one in batch.grids],
        sam_pictures=torch.cat([batch.sam_pictures for batch in batches]),
        view1=torch.cat([batch.view1 + start for batch, start in zip(batches, starts, strict=True)]),
        view2=torch.cat([batch.view2 + start for batch, start in zip(batches, starts, strict=True)]),
        cells=[one for batch in batches for one in batch.cells],
        mask1=torch.cat([batch.mask1 for batch in batches]),
        mask2=torch.cat([batch.mask2 for batch in batches]),
        categories=[one for batch in batches for one in batch.categories],
        extra=[one for batch in batches for one in batch.extra],
        for_teacher=joined(teachers) if len(teachers) == len(batches) else None,
    )


def split(tokens: Tokens, sizes: Sequence[int]) -> list[Tokens]:
    """Parts of so many rows, each as long as its longest row, at least 1."""
    parts = []
    for ids, mask in zip(tokens.ids.split(list(sizes)), tokens.mask.split(list(sizes)), strict=True):
        width = max(1, int(mask.sum(1).max()))
        parts.append(Tokens(ids[:, :width], mask[:, :width]))
    return parts
