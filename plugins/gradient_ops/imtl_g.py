"""IMTL-G: an update whose projections on all loops' gradient directions are equal.

Source: Liu et al. 2021, "Towards Impartial Multi-task Learning", ICLR; in the form for dependent gradients of Quinton and
Rey 2024, "Jacobian Descent for Multi-Objective Optimization", arXiv:2406.16232.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.contracts import Gram
from core.late import torch
from plugins.gradient_ops._blocks import Scope, Scoped

if TYPE_CHECKING:
    from torch import Tensor


class ImtlG(Scoped):
    """``g = sum_i v_i h_i`` of the scaled gradients ``h_i = s_i g_i``, with ``<g, h_i / |h_i|>`` equal for all i and sum v = 1.

    The loops' weights s change the length of g, not its direction (but for its sign where some v are negative).
    """

    def __init__(self, *, scope: Scope = "global") -> None:
        super().__init__(scope)

    def weights(self, gram: Gram) -> Tensor:
        """[P, n] float64; 0 where no update with equal projections exists."""
        return self.scaled(gram, equal_projections)


def equal_projections(G: Tensor) -> Tensor:
    """[n] weights of a Gram matrix [n, n]."""
    norms = G.diagonal().sqrt()  # [n]
    cosines = G / norms / norms[:, None]  # [n, n]; of unit gradients: the inverse does not see how long they are
    v = (torch.linalg.pinv(cosines, hermitian=True) @ torch.ones_like(norms)) / norms
    return v / v.sum() if v.sum().abs() > 1e-12 * v.abs().sum() else torch.zeros_like(v)
