"""One loop is the anchor; of every other loop's gradient only the part orthogonal to the anchor is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from core.contracts import Gram
from core.late import torch
from plugins.gradient_ops._blocks import Scope, Scoped

if TYPE_CHECKING:
    from torch import Tensor


class PcgradOrthogonal(Scoped):
    """``g = s_a g_a + sum_i s_i (g_i - c_i g_a)`` with ``c_i = <g_i, g_a> / <g_a, g_a>``, and ``c_i = 0`` where ``<g_a, g_a> = 0``.

    anchor: name of the loop whose gradient is kept whole. scope: what is projected: the concatenation of all parameters
    (``global``), each ``group`` or each ``parameter``. when: ``always``, or only in ``conflict`` (``<g_i, g_a> < 0``).
    In an update in which the anchor takes no part this is the plain weighted sum.
    """

    def __init__(self, *, anchor: str, scope: Scope = "global", when: Literal["always", "conflict"] = "always") -> None:
        super().__init__(scope)
        if when not in ("always", "conflict"):
            raise ValueError(f"when must be 'always' or 'conflict', not {when!r}.")
        self.anchor, self.when = anchor, when

    def weights(self, gram: Gram) -> Tensor:
        """[P, n] float64; with the global scope every row is the same."""
        w = gram.scales.repeat(len(gram.groups), 1)  # [P, n]
        if self.anchor not in gram.loops:
            return w
        a = gram.loops.index(self.anchor)
        G = self.blocks(gram).expand_as(gram.values)  # [P, n, n]
        square = G[:, a, a].unsqueeze(1)  # [P, 1]
        c = torch.where(square > 0, G[:, :, a] / square, 0.0)  # [P, n]
        if self.when == "conflict":
            c = c.clamp(max=0)
        c[:, a] = 0  # the anchor is not projected on itself
        w[:, a] -= c @ gram.scales  # [P]
        return w
