"""What each sample of a data set is like, found by reading all of them once and kept on disk.

The data set is known again by its pickle: class, options, folders. The facts are made anew when one of its indices, or one of
the files or folders that it names, has another size or modification time.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import PurePath
from typing import Any

import numpy as np

from core.contracts import BadSample, Dataset, UserError
from core.cores import cores
from plugins.datasets._build import watched
from plugins.datasets._cache import Index, cached, pack

_CHUNK = 64  # samples read by a thread at a time


class Facts:
    """Of n samples; those that cannot be read have no share, caption or category."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self.share: np.ndarray = np.asarray(index["share"])  # [n] float64 in 0..1, of the picture that the mask covers; NaN: unreadable
        self.bad = int(np.isnan(self.share).sum())

    def captions(self, row: int) -> list[str]:
        """One, several or none."""
        ends = self._index["captions"]
        return [self._index.text("caption", one) for one in range(int(ends[row - 1]) if row else 0, int(ends[row]))]

    def category(self, row: int) -> str | None:
        return self._index.text("category", row) or None


def facts(dataset: Dataset) -> Facts:
    """The facts of a data set. Raises ``UserError`` where it cannot be pickled, which workers need too."""
    known = _Known()
    try:
        known.dump(dataset)
    except (pickle.PicklingError, TypeError, AttributeError) as fault:
        raise UserError(f"filter: the data set inside cannot be pickled ({fault}); keep no open files or local classes in it.") from fault
    identity = hashlib.sha256(known.file.getvalue()).hexdigest()
    stamp = hashlib.sha256("\n".join(known.stamps).encode("utf-8", "surrogateescape")).hexdigest()
    return Facts(cached("filter", {"data": identity}, stamp, lambda _: _build(dataset)))


class _Known(pickle.Pickler):
    """Pickles a data set, and notes the state of what it was made from."""

    def __init__(self) -> None:
        self.file, self.stamps = io.BytesIO(), list[str]()
        super().__init__(self.file, protocol=4)

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Index):
            self.stamps.append(f"{value.path}\0{value.stamp}")
        elif isinstance(value, PurePath) and os.path.exists(value):
            state = os.stat(value)
            self.stamps.append(f"{value}\0{state.st_size}\0{state.st_mtime_ns}")
        return NotImplemented


def _build(dataset: Dataset) -> dict[str, np.ndarray]:
    count = len(dataset)
    bounds = [*range(0, count, _CHUNK), count]
    shares: list[float] = []
    texts: list[Sequence[str]] = []
    categories: list[str] = []

    def read(bound: tuple[int, int]) -> list[tuple[float, Sequence[str], str]]:
        return [_one(dataset, index) for index in range(*bound)]

    with ThreadPoolExecutor(min(16, cores())) as pool:  # decoding holds no lock
        spans = list(pairwise(bounds))
        for rows, _ in watched("filter", count, ((rows, end) for rows, (_, end) in zip(pool.map(read, spans), spans, strict=True))):
            for share, captions, category in rows:
                shares.append(share)
                texts.append(captions)
                categories.append(category)
    return {
        "share": np.array(shares, np.float64),
        "captions": np.cumsum([len(captions) for captions in texts], dtype=np.int64),
        **pack("caption", [caption for captions in texts for caption in captions]),
        **pack("category", categories),
    }


def _one(dataset: Dataset, index: int) -> tuple[float, Sequence[str], str]:
    """(share, captions, category)."""
    try:
        region = dataset[index]
    except BadSample:
        return float("nan"), (), ""
    captions = region.captions or ([region.caption] if region.caption else [])
    return float(region.mask.mean()), captions, region.category or ""
