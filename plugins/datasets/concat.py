"""Several data sets as one, for instance to filter, to augment or to weight them together."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Annotated

from core.contracts import Dataset, StoredPicture, Usage, Within
from plugins.datasets._usage import usages
from plugins.datasets._wrapping import Wrapping, coco_pictures, picture_groups, stored_pictures


class Concat(Wrapping):
    """All samples of each of ``data``, one data set after the other; ids are ``NAME/ID``."""

    def __init__(self, *, data: Annotated[dict[str, Dataset], Within(1)]) -> None:
        """``data``: by name, at least one."""
        if not data:
            raise ValueError("data must name at least one data set.")
        self._names, self._parts = list(data), list(data.values())
        self._starts = [0, *accumulate(len(part) for part in self._parts)]  # of each part, and the end

    def __len__(self) -> int:
        return self._starts[-1]

    def _part(self, index: int) -> int:
        return bisect_right(self._starts, range(len(self))[index]) - 1

    def _place(self, index: int) -> tuple[Dataset, int]:
        part = self._part(index)
        return self._parts[part], range(len(self))[index] - self._starts[part]

    def _name(self, sample: str, index: int) -> str:
        return f"{self._names[self._part(index)]}/{sample}"

    def images(self) -> list[list[int]]:
        """The groups of each part."""
        parts = zip(self._starts, self._parts, strict=False)
        return [[start + index for index in group] for start, part in parts for group in picture_groups(part)]

    def coco_images(self) -> set[int]:
        """Those of all parts."""
        return set().union(*(coco_pictures(part) for part in self._parts))

    def picture_files(self) -> Iterator[StoredPicture]:
        """Those of the data inside."""
        return stored_pictures(self._parts)

    def usage(self) -> list[Usage]:
        """Those of all parts."""
        return usages(self._parts)
