"""Bootstrap intervals: units are drawn again with replacement, since the expressions about one picture are not independent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from core.contracts import Evaluator

DRAWS, LEVEL, SEED = 1000, 0.95, 0
_AT_ONCE = 100  # draws held in memory together


def unit_sums(units: Sequence[int], tally: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tally of each unit: [U] each, from ``units`` [n], the unit of each item."""
    present, place = np.unique(np.asarray(units), return_inverse=True)  # [U], [n]
    return {name: np.bincount(place, weights=values, minlength=len(present)) for name, values in tally.items()}


def draw(
    evaluator: Evaluator, units: Sequence[int], tally: Mapping[str, np.ndarray], draws: int = DRAWS, seed: int = SEED
) -> dict[str, np.ndarray]:
    """The metrics of each draw, [draws] each; empty where there is only one unit to draw from.

    A function of the units' sums and ``seed`` alone: of two models measured on the same units the same units are drawn, so
    that the draws of their difference are the differences of their draws.
    """
    sums = unit_sums(units, tally)
    table = np.stack(list(sums.values()), axis=1)  # [U, S]
    count = len(table)
    if count < 2:
        return {}
    generator = np.random.default_rng(seed)
    found: dict[str, list[np.ndarray]] = {}
    for start in range(0, draws, _AT_ONCE):
        rows = min(_AT_ONCE, draws - start)
        drawn = [np.bincount(generator.integers(count, size=count), minlength=count) for _ in range(rows)]
        # [rows, S]; not by BLAS, whose rounding depends on the number of threads
        totals = np.einsum("ru,us->rs", np.stack(drawn).astype(np.float64), table)
        with np.errstate(divide="ignore", invalid="ignore"):
            metrics = evaluator.metrics({name: totals[:, column] for column, name in enumerate(sums)})
        for name, values in metrics.items():
            found.setdefault(name, []).append(np.asarray(values, dtype=np.float64))
    return {name: np.concatenate(parts) for name, parts in found.items() if not name.startswith("n_")}


def interval(values: np.ndarray) -> tuple[float, float] | None:
    """The percentile interval of draws [R]; those that are not finite (0 / 0) are left out, and None if all are."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
