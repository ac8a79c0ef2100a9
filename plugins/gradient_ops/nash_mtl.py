"""Nash-MTL: the update on which the loops agree as players that bargain.

Source: Navon et al. 2022, "Multi-Task Learning as a Bargaining Game", arXiv:2202.01017.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.contracts import Gram
from core.late import torch
from plugins.gradient_ops._blocks import Scope, Scoped

if TYPE_CHECKING:
    from torch import Tensor


RIDGE = 1e-12  # of the mean squared norm: opposite gradients have no finite solution


class NashMtl(Scoped):
    """``g = sum_i a_i g_i`` with a > 0 and ``a_i <g, g_i> = s_i``: no loop is hurt, and the length of gradients has no influence.

    The loops' weights s are their bargaining power (1 each in the paper); ``|g|^2 = sum s``, whatever the gradients' size,
    unless one loop takes part alone, whose scaled gradient is then used as it is.
    """

    def __init__(self, *, scope: Scope = "global") -> None:
        super().__init__(scope)

    def weights(self, gram: Gram) -> Tensor:
        """[P, n] float64."""
        rows = []
        for block in self.blocks(gram):
            row, alive = gram.scales.clone(), (block.diagonal() > 0) & (gram.scales > 0)
            if alive.sum() > 1:
                row[alive] = bargain(block[alive][:, alive], gram.scales[alive])
            rows.append(row)
        return torch.stack(rows).expand(len(gram.groups), -1).clone()


def bargain(G: Tensor, power: Tensor) -> Tensor:
    """[n] a > 0 with ``a * (G a) = power``: the minimum of ``a G a / 2 - sum power log a``, by damped Newton steps."""
    norms = G.diagonal().sqrt()  # [n]
    C = G / norms / norms[:, None] + RIDGE * torch.eye(len(G), dtype=G.dtype)  # [n, n], of unit gradients
    a = power.sqrt()  # [n], the solution where all gradients are orthogonal
    for _ in range(100):
        slope = C @ a - power / a
        step = torch.linalg.solve(C + torch.diag(power / a.square()), slope)
        decrement = (slope @ step).clamp_min(0).sqrt()
        a = a - step / (1 + decrement / power.min().sqrt())  # the damping of a self-concordant function keeps a > 0
        if decrement < 1e-13:
            break
    return a / norms
