"""Gradients of the other loops are damped the more, the more they point against the anchor's."""

from __future__ import annotations

import torch
from core.contracts import Gram
from torch import Tensor


class DampedConflict:
    """``g = s_a g_a + sum_i (1 - damping c_i) s_i g_i``, where ``c_i = max(0, -cos(g_i, g_a))`` over all parameters.

    ``anchor``: the loop a; where it takes no part in an update, nothing is damped.
    """

    def __init__(self, *, anchor: str = "loop1", damping: float = 0.5) -> None:
        if not 0 <= damping <= 1:
            raise ValueError(f"damping is a share in 0..1; {damping} is none.")
        self.anchor, self.damping = anchor, damping

    def weights(self, gram: Gram) -> Tensor:
        """[P, n] float64: one row of weights, repeated for each of the P groups."""
        groups, n = len(gram.groups), len(gram.loops)
        if self.anchor not in gram.loops:
            return gram.scales.expand(groups, n).clone()
        products, a = gram.values.sum(dim=0), gram.loops.index(self.anchor)  # [n, n]
        norms = products.diagonal().clamp_min(torch.finfo(products.dtype).tiny).sqrt()  # [n]: a zero gradient has no direction
        against = (-products[a] / norms / norms[a]).clamp(0, 1)  # [n]; 0 for the anchor itself
        return (gram.scales * (1 - self.damping * against)).expand(groups, n).clone()
