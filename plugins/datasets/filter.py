"""The samples of a data set that fit: by the size of their masks, their captions, their categories.

What a sample is like is known only when it has been read, so all samples are read once: this takes as long as an epoch of
reading. What was found is kept (``_facts``), whatever the conditions are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np

from core.contracts import BadSample, Dataset, LeftOut, Region, Share, StoredPicture, Usage, UserError, Within
from plugins.datasets._facts import facts
from plugins.datasets._usage import usages
from plugins.datasets._wrapping import Wrapping, coco_pictures, picture_groups, stored_pictures


class Filter(Wrapping):
    """The samples of ``data`` that fit every condition given. Those that cannot be read stay, and are counted as bad when drawn."""

    def __init__(
        self,
        *,
        data: Dataset,
        min_share: Share | None = None,
        max_share: Share | None = None,
        min_words: Annotated[int, Within(0)] | None = None,
        max_words: Annotated[int, Within(0)] | None = None,
        include: str | None = None,
        exclude: str | None = None,
        categories: list[str] | None = None,
    ) -> None:
        """``..._share``: of the picture that the mask covers, 0..1. ``..._words``: of a caption, parted by blanks. ``include``,
        ``exclude``: regular expressions that a caption must, and must not, hold somewhere. ``categories``: their exact names.

        A region with several captions keeps those that fit; with conditions on captions, one that has none left is left out.
        All samples are read once. Raises ``UserError`` where nothing fits.
        """
        captions = [("min_words", min_words), ("max_words", max_words), ("include", include), ("exclude", exclude)]
        others = [("min_share", min_share), ("max_share", max_share), ("categories", categories)]
        if all(value is None for _, value in captions + others):
            raise ValueError(f"give at least one of {', '.join(name for name, _ in others + captions)}.")
        low, high = min_share or 0.0, 1.0 if max_share is None else max_share
        if not 0 <= low <= high <= 1:
            raise ValueError(f"min_share and max_share must lie in 0..1, the smaller one first, not {low} and {high}.")
        self._words = range(min_words or 0, 10**9 if max_words is None else max_words + 1)
        if not self._words:
            raise ValueError(f"max_words ({max_words}) must be at least min_words ({min_words}), and neither below 0.")
        self.data, self._texts = data, any(value is not None for _, value in captions)
        self._include, self._exclude = _pattern("include", include), _pattern("exclude", exclude)
        found = facts(data)
        fits = (found.share >= low) & (found.share <= high)  # [n]
        if categories is not None:
            fits &= np.array([found.category(row) in categories for row in range(len(fits))], bool)
        if self._texts:
            fits &= np.array([bool(self._fitting(found.captions(row))) for row in range(len(fits))], bool)
        self._chosen = np.flatnonzero(fits | np.isnan(found.share))
        if not fits.any():
            raise UserError(f"filter: none of {len(fits):,} regions fits the conditions ({found.bad:,} cannot be read); loosen them.")

    def __len__(self) -> int:
        return len(self._chosen)

    def _place(self, index: int) -> tuple[Dataset, int]:
        return self.data, int(self._chosen[index])

    def _read(self, index: int, read: Callable[[Dataset, int], Region]) -> Region:
        region = super()._read(index, read)
        if not self._texts:
            return region
        fitting = self._fitting(region.captions or [region.caption])
        if not fitting:  # it was drawn with other words than those that were read, or the source has changed
            raise BadSample("no caption fits the filter", region.id)
        return replace(region, captions=fitting) if region.captions else region

    def _fitting(self, captions: Sequence[str | None]) -> list[str]:
        def fits(text: str) -> bool:
            wanted = self._include is None or self._include.search(text)
            unwanted = self._exclude is not None and self._exclude.search(text)
            return len(text.split()) in self._words and bool(wanted) and not unwanted

        return [text for text in captions if text and fits(text)]

    def images(self) -> list[list[int]]:
        """The groups of the data inside, without what is left out."""
        place = {int(inner): index for index, inner in enumerate(self._chosen)}
        groups = [[place[inner] for inner in group if inner in place] for group in picture_groups(self.data)]
        return [group for group in groups if group]

    def coco_images(self) -> set[int]:
        """Those of the data inside, also of pictures of which nothing is left."""
        return coco_pictures(self.data)

    def picture_files(self) -> Iterator[StoredPicture]:
        """Those of the data inside, also of pictures of which nothing is left."""
        return stored_pictures([self.data])

    def usage(self) -> list[Usage]:
        """Those of the data inside, and its own."""
        left = len(self.data) - len(self._chosen)
        own = (LeftOut("does not fit the filter", left),) if left else ()
        return [*usages([self.data]), Usage(len(self.data), "regions", own)]


def _pattern(name: str, text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except re.error as fault:
        raise ValueError(f"{name} is no regular expression: {fault} in {text!r}.") from fault
