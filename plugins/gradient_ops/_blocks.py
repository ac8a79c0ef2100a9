"""What the gradient ops share: which parameters are looked at together, and gradients that are zero there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, get_args

from core.contracts import Gram
from core.late import torch

if TYPE_CHECKING:
    from torch import Tensor


#: ``global``: all parameters at once; ``group``: each parameter group by itself; ``parameter``: each parameter tensor by
#: itself (the engine then gives a Gram matrix for each of them, see ``GradientOp.per_parameter`` in ``core.contracts``).
Scope = Literal["global", "group", "parameter"]


class Scoped:
    """Base of the ops that have a scope."""

    def __init__(self, scope: Scope) -> None:
        if scope not in get_args(Scope):
            raise ValueError(f"scope must be one of {', '.join(get_args(Scope))}, not {scope!r}.")
        self.scope, self.per_parameter = scope, scope == "parameter"

    def blocks(self, gram: Gram) -> Tensor:
        """[Q, n, n]: one inner-product matrix with the global scope, else one for each of the P groups."""
        return gram.values.sum(0, keepdim=True) if self.scope == "global" else gram.values

    def scaled(self, gram: Gram, solve: Callable[[Tensor], Tensor]) -> Tensor:
        """[P, n] weights ``s_i v_i`` where ``solve`` gives v [m] of the Gram matrix [m, m] of the scaled gradients ``s_i g_i``.

        Only gradients that are not zero in a block are given to ``solve``: a loop that does not reach a group must not stop
        its training. One gradient alone is plain training: v = 1.
        """
        s = gram.scales  # [n]
        rows = [s * _solved(s[:, None] * block * s, solve) for block in self.blocks(gram)]
        return torch.stack(rows).expand(len(gram.groups), -1).clone()


def _solved(block: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
    """[n] of a block [n, n]; 1 for a gradient that is zero, whose weight changes nothing."""
    v = torch.ones(len(block), dtype=block.dtype)
    alive = block.diagonal() > 0
    if alive.sum() > 1:
        v[alive] = solve(block[alive][:, alive])
    return v
