"""A data set several times over: a larger part of a loop whose sources are mixed by their sizes."""

from __future__ import annotations

from collections.abc import Iterator

from core.contracts import Count, Dataset, StoredPicture, Usage
from plugins.datasets._usage import usages
from plugins.datasets._wrapping import Wrapping, coco_pictures, picture_groups, stored_pictures


class Repeat(Wrapping):
    """All samples of ``data``, ``times`` over. The first time keeps the ids, the second adds ``#2``, and so on.

    It changes nothing for a source that is alone in its loop or has a ``weight``: the stream of samples is endless anyway.
    """

    def __init__(self, *, data: Dataset, times: Count) -> None:
        """``times``: 1 or more. Nothing is copied."""
        if times < 1:
            raise ValueError(f"times must be at least 1, not {times}.")
        self.data, self.times = data, times

    def __len__(self) -> int:
        return self.times * len(self.data)

    def _place(self, index: int) -> tuple[Dataset, int]:
        return self.data, range(len(self))[index] % len(self.data)

    def _name(self, sample: str, index: int) -> str:
        time = range(len(self))[index] // len(self.data)
        return f"{sample}#{time + 1}" if time else sample

    def images(self) -> list[list[int]]:
        """Each time has its own groups: a picture is not drawn with all its repetitions at once."""
        size, groups = len(self.data), picture_groups(self.data)
        return [[index + time * size for index in group] for time in range(self.times) for group in groups]

    def coco_images(self) -> set[int]:
        """Those of the data inside."""
        return coco_pictures(self.data)

    def picture_files(self) -> Iterator[StoredPicture]:
        """Those of the data inside."""
        return stored_pictures([self.data])

    def usage(self) -> list[Usage]:
        """That of the data inside."""
        return usages([self.data])
