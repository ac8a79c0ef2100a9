"""Aligned-MTL: the loops' gradients are rotated and rescaled as little as possible until they are orthogonal and equally long.

Source: Senushkin et al. 2023, "Independent Component Alignment for Multi-Task Learning", CVPR, algorithm 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.contracts import Gram
from core.late import torch
from plugins.gradient_ops._blocks import Scope, Scoped

if TYPE_CHECKING:
    from torch import Tensor


class AlignedMtl(Scoped):
    """``g = sum_i s_i g_i'`` with g' the gradients whose singular values have all been set to the smallest one.

    The g_i' do not conflict with each other; g may still conflict with a g_i. The loops' weights s are the paper's preferences.
    """

    def __init__(self, *, scope: Scope = "global") -> None:
        super().__init__(scope)

    def weights(self, gram: Gram) -> Tensor:
        """[P, n] float64."""
        rows = []
        for block in self.blocks(gram):
            row, alive = gram.scales.clone(), block.diagonal() > 0
            if alive.any():  # a gradient that is zero would only add a singular value of its own
                row[alive] = balance(block[alive][:, alive]) @ gram.scales[alive]
            rows.append(row)
        return torch.stack(rows).expand(len(gram.groups), -1).clone()


def balance(G: Tensor) -> Tensor:
    """[n, n]: ``sqrt(smallest) V diag(eigenvalues)^(-1/2) V'`` over the eigenvalues of G [n, n] that are not zero."""
    values, vectors = torch.linalg.eigh(G)  # ascending
    kept = values > values[-1] * len(G) * torch.finfo(G.dtype).eps
    values, vectors = values[kept], vectors[:, kept]
    return (vectors * (values[0] / values).sqrt()) @ vectors.T
