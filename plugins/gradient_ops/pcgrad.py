"""PCGrad: every loop's gradient gives up the parts that conflict with the others.

Source: Yu et al. 2020, "Gradient Surgery for Multi-Task Learning", arXiv:2001.06782, algorithm 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.contracts import Gram
from core.late import torch
from plugins.gradient_ops._blocks import Scope, Scoped

if TYPE_CHECKING:
    from torch import Tensor


class Pcgrad(Scoped):
    """``g = sum_i s_i g_i'``: g_i' is g_i projected, one after the other, off every original g_j with ``<g_i', g_j> < 0``.

    The paper draws the order of the j at random. Here it is fixed, so that an update can be repeated: after i come
    i + 1, i + 2, ... in the order of the loops, round to i - 1; no loop is always first. With two loops nothing differs.
    scope: what is projected: the concatenation of all parameters (``global``), each ``group`` or each ``parameter``.
    """

    def __init__(self, *, scope: Scope = "global") -> None:
        super().__init__(scope)

    def weights(self, gram: Gram) -> Tensor:
        """[P, n] float64; with the global scope every row is the same."""
        P, n = len(gram.groups), len(gram.loops)
        G = self.blocks(gram).expand_as(gram.values)  # [P, n, n]
        w = torch.zeros_like(G[:, 0])  # [P, n]
        for i in range(n):
            v = torch.eye(n, dtype=G.dtype, device=G.device)[i].repeat(P, 1)  # [P, n], g_i' in terms of the g_j
            for j in ((i + step) % n for step in range(1, n)):
                inner, square = (v * G[:, :, j]).sum(1), G[:, j, j]  # [P] each: <g_i', g_j>, <g_j, g_j>
                v[:, j] -= torch.where((inner < 0) & (square > 0), inner / square, 0.0)
            w += gram.scales[i] * v
        return w
