"""Of two measurements of the same pictures: the interval of their difference, and what may be said of it. Quick to import."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

Verdict = Literal["better", "worse", "differs", "open", ""]
GoodWay = Literal["highest", "lowest"]
FEWEST = 40  # draws: of fewer none lies in the 2.5 % on either side


def paired_interval(mine: Sequence[float | None], theirs: Sequence[float | None]) -> tuple[float, float] | None:
    """The 95 % interval of ``mine`` less ``theirs``, draws of the same units; those without a value are left out. None: too few."""
    changes = sorted(a - b for a, b in zip(mine, theirs, strict=False) if a is not None and b is not None)
    if len(changes) < FEWEST:
        return None
    cuts = statistics.quantiles(changes, n=40, method="inclusive")
    return cuts[0], cuts[-1]


def verdict(value: float, low: float, high: float, good: GoodWay | None) -> Verdict:
    """``open``: the interval holds 0; ``differs``: it does not, and nobody says which way is good; empty: nothing can be said."""
    if value and high - low <= 1e-9 * abs(value):  # steps of a coarse metric: few equal ones are no certainty
        return ""
    if low <= 0 <= high:
        return "open"
    if good is None:
        return "differs"
    return "better" if (value > 0) == (good == "highest") else "worse"
