"""CAGrad: near the mean gradient, the update that serves the worst-off loop best.

Source: Liu et al. 2021, "Conflict-Averse Gradient Descent for Multi-task Learning", arXiv:2110.14048, algorithm 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.contracts import Gram, NotNegative
from core.late import torch
from plugins.gradient_ops._blocks import Scope, Scoped
from plugins.gradient_ops._simplex import minimize
from plugins.gradient_ops.mgda import min_norm

if TYPE_CHECKING:
    from torch import Tensor


class Cagrad(Scoped):
    """``g`` maximises ``min_i <g, h_i>`` in the ball ``|g - h_0| <= c |h_0|``; ``h_i = s_i g_i``, h_0 their mean.

    c: 0 gives the mean; from 1 on the update approaches MGDA's direction and no longer has to serve the mean loss.
    The dual problem is solved exactly. Where a convex combination of the h_i is zero and c >= 1, g = 0.
    """

    def __init__(self, *, c: NotNegative = 0.4, scope: Scope = "global") -> None:
        super().__init__(scope)
        if not c >= 0:
            raise ValueError(f"c must not be negative, but is {c}.")
        self.c = c

    def weights(self, gram: Gram) -> Tensor:
        """[P, n] float64."""
        return self.scaled(gram, lambda G: conflict_averse(G, self.c))


def conflict_averse(G: Tensor, c: float) -> Tensor:
    """[n] weights of a Gram matrix [n, n]: ``1/n + radius / |h_w| w`` where w minimises ``<h_w, h_0> + radius |h_w|``."""
    n = len(G)
    unit = G.diagonal().mean()
    G = G / unit
    b = G.mean(1)  # [n], <h_i, h_0>
    radius = c * G.mean().clamp_min(0).sqrt()  # c |h_0|

    def length(w: Tensor) -> Tensor:
        return (w @ G @ w).clamp_min(0).sqrt()

    def cost(w: Tensor) -> Tensor:
        return w @ b + radius * length(w)

    def stationary(face: list[int]) -> Tensor | None:
        # b + t G w = m with t = radius / |h_w|: then w = (u m - v) / t, and sum w = 1, |h_w| = radius / t fix t and m
        ones = torch.ones(len(face), dtype=G.dtype)
        u, v = torch.linalg.lstsq(G[face][:, face], torch.stack([ones, b[face]], 1), driver="gelsd").solution.T
        p, q, r = u.sum(), v.sum(), b[face] @ v
        root = q.square() - p * (r - radius.square())
        if p <= 0 or root <= 0:
            return None
        return (u * ((q + root.sqrt()) / p) - v) / root.sqrt()

    # where the h_i cancel out, the cost has a kink that no stationary point shows
    w = min(min_norm(G), minimize(n, stationary, cost), key=lambda w: float(cost(w)))
    if length(w) <= 1e-7:
        return torch.zeros(n, dtype=G.dtype)
    return 1 / n + radius / length(w) * w
