"""How a loop's sources are mixed: position in the endless stream -> (source, epoch of that source, place in it)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Protocol

import numpy as np


class Mixture(Protocol):
    def at(self, position: int) -> tuple[int, int, int]:
        """(source, epoch, place): which source stands there, which time round it is, and which of its n samples is due (0..n-1)."""
        ...


class BySize:
    """Each source in proportion to its number of samples, so that all begin their next epoch together.

    Low discrepancy: the j-th of a source's n samples stands at j / n of the epoch, so every source appears at the start and then
    evenly.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        place = np.concatenate([np.arange(n) / n for n in lengths])  # [N], where in the epoch each sample stands
        source = np.repeat(np.arange(len(lengths), dtype=np.int16), lengths)  # [N]
        rank = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])  # [N]
        order = np.lexsort((source, place))
        self._source, self._rank = source[order], rank[order]  # 6 bytes a sample are kept

    def at(self, position: int) -> tuple[int, int, int]:
        epoch, place = divmod(position, len(self._source))
        return int(self._source[place]), epoch, int(self._rank[place])


class ByWeight:
    """Each source has its share w / sum(w) of the samples, whatever its size, and its own epochs.

    The sources are halved again and again into a left and a right part; of the first p positions of a node, ceil(p * share) are
    the left part's. This is exact (whole numbers only) and needs no state. A source is never further from its share than there
    are halvings, a sample for each: three for eight sources.
    """

    def __init__(self, lengths: Sequence[int], weights: Sequence[float]) -> None:
        """``weights``: above 0 and finite, as many as ``lengths``; 0.1 is taken for one tenth exactly."""
        exact = [Fraction(repr(float(weight))) for weight in weights]
        scale = math.lcm(*(weight.denominator for weight in exact))
        self._sums = [0]  # of the weights before each source, in whole numbers
        for weight in exact:
            self._sums.append(self._sums[-1] + int(weight * scale))
        self._lengths = list(lengths)

    def at(self, position: int) -> tuple[int, int, int]:
        first, end = 0, len(self._lengths)
        while end - first > 1:
            middle, here = (first + end) // 2, self._sums
            left, both = here[middle] - here[first], here[end] - here[first]
            before = -(-position * left // both)  # ceil: how many of the earlier positions are the left part's
            if -(-(position + 1) * left // both) > before:
                position, end = before, middle
            else:
                position, first = position - before, middle
        return first, *divmod(position, self._lengths[first])
