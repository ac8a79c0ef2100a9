"""Which items of a data set an evaluator takes, and an account of those it could not use."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np

from core.contracts import BadSample


def spread(total: int, wanted: int | None) -> list[int]:
    """``wanted`` of ``range(total)``, evenly spread from the first to the last; all of them where ``wanted`` is None or more."""
    if wanted is None or wanted >= total:
        return list(range(total))
    return np.linspace(0, total - 1, wanted).round().astype(int).tolist()


class BadItems:
    """Counts the items that could not be used, by reason; keeps one example of each."""

    def __init__(self) -> None:
        self._reasons: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, bad: BadSample) -> None:
        self._reasons[bad.reason] += 1
        self._examples.setdefault(bad.reason, str(bad))

    def __len__(self) -> int:
        return self._reasons.total()

    def __str__(self) -> str:
        return "; ".join(f"{count} x {reason}, e.g. {self._examples[reason]}" for reason, count in self._reasons.most_common())

    def report(self, total: int) -> None:
        """One warning if there were any: the metrics then stand for fewer items than asked for."""
        if len(self):
            warnings.warn(f"{len(self)} of {total} evaluation items could not be used: {self}.", stacklevel=3)
