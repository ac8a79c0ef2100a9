"""MGDA: the shortest vector in the convex hull of the loops' gradients.

Source: Désidéri 2012, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization", C. R. Acad. Sci. 350;
for networks Sener and Koltun 2018, arXiv:1810.04650.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.contracts import Gram
from core.late import torch
from plugins.gradient_ops._blocks import Scope, Scoped
from plugins.gradient_ops._simplex import minimize

if TYPE_CHECKING:
    from torch import Tensor


class Mgda(Scoped):
    """``g = sum_i v_i s_i g_i`` with v >= 0, sum v = 1 and ``|g|`` least: ``<g, s_i g_i> >= |g|^2`` for every loop.

    The minimum is exact (no Frank-Wolfe iterations). Short gradients get the most weight; the loops' weights s count.
    """

    def __init__(self, *, scope: Scope = "global") -> None:
        super().__init__(scope)

    def weights(self, gram: Gram) -> Tensor:
        """[P, n] float64."""
        return self.scaled(gram, min_norm)


def min_norm(G: Tensor) -> Tensor:
    """[n] point of the simplex where ``v G v`` is least, of a Gram matrix [n, n]."""

    def stationary(face: list[int]) -> Tensor:
        v = torch.linalg.lstsq(G[face][:, face], torch.ones(len(face), 1, dtype=G.dtype), driver="gelsd").solution[:, 0]
        return v / v.sum()

    # opposite gradients: their face has a singular matrix, and the point with |g| = 0 is its null vector
    def null(face: list[int]) -> Tensor | None:
        values, vectors = torch.linalg.eigh(G[face][:, face])
        v = vectors[:, 0]
        return v / v.sum() if values[0] <= 1e-14 * values[-1] and v.sum().abs() > 1e-9 else None

    def cost(v: Tensor) -> Tensor:
        return v @ G @ v

    candidates = [minimize(len(G), way, cost) for way in (stationary, null)]
    return min(candidates, key=lambda v: float(cost(v)))
