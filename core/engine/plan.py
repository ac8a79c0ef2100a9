"""Which samples an update draws: a pure function of (seed, update), the same for any number of processes.

Sources are mixed by their sizes or by weights (``core.engine.mixture``). Within a source, each epoch has its own order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from core.contracts import Dataset, GroupsByPicture, Loop, Region, TakesEmptyMasks, UserError, draw_from
from core.engine.mixture import BySize, ByWeight, Mixture
from core.engine.noise import derived_seed


@dataclass(frozen=True)
class Source:
    """One data set of one task of one loop."""

    loop: str
    task: str
    name: str
    dataset: Dataset
    needs: frozenset[str]  # what the preparation is told, see ``needs_of``
    weight: float | None = None  # its share of the loop's samples, relative to the other sources'; None: its size

    @property
    def path(self) -> str:
        """Its key path in the recipe."""
        return f"loops.{self.loop}.tasks.{self.task}.data.{self.name}"


def needs_of(loop: Loop) -> frozenset[str]:
    """What the preparation is told of a loop's samples: its ``needs``, and ``empty_mask`` where it takes empty masks."""
    empty = isinstance(loop, TakesEmptyMasks) and loop.empty_masks
    return loop.needs | {"empty_mask"} if empty else loop.needs


@dataclass(frozen=True)
class Slot:
    """One place in an update's global batch of one loop, and the sample that stands there unless it is bad."""

    update: int
    number: int
    source: int
    index: int
    epoch: int  # of the source


class Plan:
    """The endless stream of one loop."""

    def __init__(self, sources: Sequence[Source], seed: int, batch: int, group_pictures: bool = False) -> None:
        """``batch``: samples of an update. ``group_pictures``: regions of one picture follow each other."""
        self.sources, self.seed, self.batch = list(sources), seed, batch
        self._groups = [_picture_groups(source.dataset) if group_pictures else None for source in sources]
        self.lengths = [len(source.dataset) for source in sources]
        if empty := [source.path for source, length in zip(sources, self.lengths, strict=True) if not length]:
            raise UserError(f"{', '.join(empty)}: no sample at all; check root and split")
        self._mixture = _mixture(sources, self.lengths)
        self._shuffled = lru_cache(maxsize=2 * len(self.lengths))(self._shuffle)

    def _shuffle(self, epoch: int, source: int) -> np.ndarray:
        generator = np.random.default_rng(derived_seed(self.seed, self.sources[source].path, epoch))
        groups = self._groups[source]
        if groups is None:
            return generator.permutation(self.lengths[source])
        members, begins = groups
        order = generator.permutation(len(begins) - 1)
        lengths = np.diff(begins)[order]  # [g]
        shift = begins[:-1][order] - np.concatenate([[0], np.cumsum(lengths)[:-1]])  # [g], from a place here to one in members
        return members[np.repeat(shift, lengths) + np.arange(len(members))]

    def slots(self, update: int) -> list[Slot]:
        """The global batch of an update, in a fixed order."""
        slots = []
        for number in range(self.batch):
            source, epoch, place = self._mixture.at(update * self.batch + number)
            slots.append(Slot(update, number, source, int(self._shuffled(epoch, source)[place]), epoch))
        return slots

    def region(self, slot: Slot, index: int) -> Region:
        """The sample of a slot as this visit sees it: drawn where the data set draws, and with one of its captions at most.

        ``index``: the slot's own or a replacement's. Raises what the data set raises.
        """
        source = self.sources[slot.source]
        names = (self.seed, source.path, slot.epoch, index)
        region = draw_from(source.dataset, index, np.random.default_rng(derived_seed(*names, "draw")))
        if not region.captions:
            return region
        chosen = int(np.random.default_rng(derived_seed(*names, "caption")).integers(len(region.captions)))
        return replace(region, caption=region.captions[chosen], captions=())

    def replacement(self, slot: Slot, attempt: int) -> int:
        """The index drawn instead of a bad sample, from the same source, at the given attempt (1, 2, ...)."""
        seed = derived_seed(self.seed, self.sources[slot.source].path, slot.update, slot.number, attempt)
        return int(np.random.default_rng(seed).integers(self.lengths[slot.source]))


def _mixture(sources: Sequence[Source], lengths: Sequence[int]) -> Mixture:
    weights = [source.weight for source in sources if source.weight is not None]
    if not weights:
        return BySize(lengths)
    if lacking := [source.path for source in sources if source.weight is None]:
        raise UserError(f"{', '.join(lacking)}: no weight, which another source of the loop has: give all of them one, or none")
    return ByWeight(lengths, weights)


def _picture_groups(dataset: Dataset) -> tuple[np.ndarray, np.ndarray] | None:
    """What the data set's ``images()`` gives, if it has it, packed: indices [n] int64 and where each group begins [g + 1]."""
    if not isinstance(dataset, GroupsByPicture):
        return None
    groups = [group for group in dataset.images() if group]
    members = np.fromiter((index for group in groups for index in group), np.int64)  # [n]
    return members, np.concatenate([[0], np.cumsum([len(group) for group in groups], dtype=np.int64)]).astype(np.int64)
