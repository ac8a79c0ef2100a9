"""Exact minima over the simplex ``{w >= 0, sum w = 1}``, face by face: n loops are few, so all 2^n - 1 faces can be looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import TYPE_CHECKING

from core.late import torch

if TYPE_CHECKING:
    from torch import Tensor


MOST_LOOPS = 12  # 4095 faces


def faces(n: int) -> Iterator[list[int]]:
    """Every non-empty set of vertices. Raises ValueError above ``MOST_LOOPS``."""
    if n > MOST_LOOPS:
        raise ValueError(f"{n} loops in one update are more than this gradient op takes ({MOST_LOOPS}): use pcgrad, gradvac or imtl_g.")
    for size in range(1, n + 1):
        yield from map(list, combinations(range(n), size))


def minimize(n: int, stationary: Callable[[list[int]], Tensor | None], cost: Callable[[Tensor], Tensor]) -> Tensor:
    """[n]: of the ``stationary`` points of ``cost`` inside each face ([size] weights that sum to 1, or None), the cheapest."""
    best, least = torch.full((n,), 1 / n, dtype=torch.float64), float("inf")
    for face in faces(n):
        inside = stationary(face)
        if inside is None or not inside.isfinite().all() or bool((inside < -1e-12).any()):
            continue
        w = torch.zeros(n, dtype=torch.float64)
        w[face] = inside.clamp_min(0) / inside.clamp_min(0).sum()
        if (value := float(cost(w))) < least:
            best, least = w, value
    return best
