"""What the wrappers share: data sets whose samples are other data sets' samples, under an index and an id of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from core.contracts import BadSample, Dataset, GroupsByPicture, KnowsCocoPictures, KnowsPictures, Region, StoredPicture, draw_from

if TYPE_CHECKING:
    import numpy as np


def picture_groups(dataset: Dataset) -> list[list[int]]:
    """Its ``images()``; where it has none, each index by itself."""
    return dataset.images() if isinstance(dataset, GroupsByPicture) else [[index] for index in range(len(dataset))]


def coco_pictures(dataset: Dataset) -> set[int]:
    """Its ``coco_images()``; where it has none, no id."""
    return dataset.coco_images() if isinstance(dataset, KnowsCocoPictures) else set()


def stored_pictures(datasets: Iterable[Dataset]) -> Iterator[StoredPicture]:
    """Those of each data set that knows its pictures."""
    return (picture for dataset in datasets if isinstance(dataset, KnowsPictures) for picture in dataset.picture_files())


class Wrapping(ABC):
    """Draws what is inside: by its ``draw`` in training, where it has one, and by index otherwise."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _place(self, index: int) -> tuple[Dataset, int]:
        """The data set that a sample comes from, and its index there. Raises ``IndexError`` from ``len(self)`` on."""

    @abstractmethod
    def images(self) -> list[list[int]]:
        """The indices, grouped by picture; each index once."""

    def _name(self, sample: str, index: int) -> str:
        """The sample's id here."""
        return sample

    def __getitem__(self, index: int) -> Region:
        return self._read(index, lambda dataset, inner: dataset[inner])

    def draw(self, index: int, generator: np.random.Generator) -> Region:
        """As the data set inside draws it."""
        return self._read(index, lambda dataset, inner: draw_from(dataset, inner, generator))

    def _read(self, index: int, read: Callable[[Dataset, int], Region]) -> Region:
        dataset, inner = self._place(index)
        try:
            region = read(dataset, inner)
        except BadSample as bad:
            raise BadSample(bad.reason, self._name(bad.sample, index), bad.detail) from bad
        return replace(region, id=self._name(region.id, index))
