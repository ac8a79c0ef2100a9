"""Which samples an update draws: a pure function of (seed, update), the same for any number of processes.

Sources are interleaved with low discrepancy: the j-th of a source's n samples stands at j / n of the epoch, so every
source appears at the start and then evenly, in proportion to its share. Within a source, each epoch has its own order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from core.contracts import Dataset, GroupsByPicture, UserError
from core.engine.noise import derived_seed


@dataclass(frozen=True)
class Source:
    """One data set of one task of one loop."""

    loop: str
    task: str
    name: str
    dataset: Dataset
    needs: frozenset[str]

    @property
    def path(self) -> str:
        """Its key path in the recipe."""
        return f"loops.{self.loop}.tasks.{self.task}.data.{self.name}"


@dataclass(frozen=True)
class Slot:
    """One place in an update's global batch of one loop, and the sample that stands there unless it is bad."""

    update: int
    number: int
    source: int
    index: int


class Plan:
    """The endless stream of one loop."""

    def __init__(self, sources: Sequence[Source], seed: int, batch: int, group_pictures: bool = False) -> None:
        """``batch``: samples of an update. ``group_pictures``: regions of one picture follow each other."""
        self.sources, self.seed, self.batch = list(sources), seed, batch
        self._groups = [_picture_groups(source.dataset) if group_pictures else None for source in sources]
        self.lengths = [len(source.dataset) for source in sources]
        if empty := [source.path for source, length in zip(sources, self.lengths, strict=True) if not length]:
            raise UserError(f"{', '.join(empty)}: no sample at all; check root and split")
        place = np.concatenate([np.arange(n) / n for n in self.lengths])  # [N], where in the epoch each sample stands
        source = np.repeat(np.arange(len(self.lengths), dtype=np.int16), self.lengths)  # [N]
        rank = np.concatenate([np.arange(n, dtype=np.int32) for n in self.lengths])  # [N]
        order = np.lexsort((source, place))
        self._source, self._rank = source[order], rank[order]  # 6 bytes a sample are kept
        self._shuffled = lru_cache(maxsize=2 * len(self.lengths))(self._shuffle)

    def __len__(self) -> int:
        """Samples in an epoch."""
        return len(self._source)

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
            epoch, position = divmod(update * self.batch + number, len(self))
            source = int(self._source[position])
            slots.append(Slot(update, number, source, int(self._shuffled(epoch, source)[self._rank[position]])))
        return slots

    def replacement(self, slot: Slot, attempt: int) -> int:
        """The index drawn instead of a bad sample, from the same source, at the given attempt (1, 2, ...)."""
        seed = derived_seed(self.seed, self.sources[slot.source].path, slot.update, slot.number, attempt)
        return int(np.random.default_rng(seed).integers(self.lengths[slot.source]))


def _picture_groups(dataset: Dataset) -> tuple[np.ndarray, np.ndarray] | None:
    """What the data set's ``images()`` gives, if it has it, packed: indices [n] int64 and where each group begins [g + 1]."""
    if not isinstance(dataset, GroupsByPicture):
        return None
    groups = [group for group in dataset.images() if group]
    members = np.fromiter((index for group in groups for index in group), np.int64)  # [n]
    return members, np.concatenate([[0], np.cumsum([len(group) for group in groups], dtype=np.int64)]).astype(np.int64)
