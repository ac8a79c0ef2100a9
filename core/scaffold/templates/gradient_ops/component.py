"""Gradients of the other loops are damped where they conflict with the anchor's."""

from __future__ import annotations

import torch
from core.contracts import Gram
from torch import Tensor


class TemplateName:
    """``g = s_a g_a + sum_i d_i s_i g_i``; ``d_i`` is ``damping`` where ``<g_i, g_a> < 0`` over all parameters, otherwise 1.

    ``anchor``: the loop a; by default the first one of each update.
    """

    def __init__(self, *, anchor: str | None = None, damping: float = 0.5) -> None:
        if not 0 <= damping <= 1:
            raise ValueError(f"damping must lie in 0..1, not {damping}.")
        self.anchor, self.damping = anchor, damping

    def weights(self, gram: Gram) -> Tensor:
        """[P, n] float64, the same for every parameter group."""
        w = gram.scales.clone()  # [n]
        anchor = gram.loops[0] if self.anchor is None else self.anchor
        if anchor in gram.loops:
            inner = gram.values.sum(0)[gram.loops.index(anchor)]  # [n], <g_a, g_i>
            w = torch.where(inner < 0, self.damping * w, w)
        return w.repeat(len(gram.groups), 1)
