"""GradDrop: each number of the update is taken from the gradients that agree on a sign, drawn by how much they agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.contracts import Gram, Share
from core.late import torch

if TYPE_CHECKING:
    from torch import Tensor


class GradDrop:
    """For each number of the update, of the loops' weighted gradients ``s_i g_i`` either the positive or the negative ones are summed.

    The positive ones with probability ``P = (1 + sum_i s_i g_i / sum_i |s_i g_i|) / 2``, the others are dropped.

    leak: share of the plain sum that is always kept, 0..1; 1 is the plain sum.
    Source: Chen et al., arXiv:2010.06808, with the same draw for all loops of an update.
    """

    def __init__(self, *, leak: Share = 0.0) -> None:
        if not 0 <= leak <= 1:
            raise ValueError(f"leak must lie in 0..1, not {leak}.")
        self.leak = leak

    def weights(self, gram: Gram) -> Tensor:
        """[P, n], those of the plain sum."""
        return gram.scales.repeat(len(gram.groups), 1)

    def combine(self, gradients: Tensor, scales: Tensor, generator: torch.Generator) -> Tensor:
        """[n, m] float32, [n] float64 -> [m] float32; one draw for each of the m numbers."""
        scaled = gradients * scales.to(gradients)[:, None]  # [n, m]
        plain, size = scaled.sum(0), scaled.abs().sum(0)  # [m]
        positive = torch.where(size > 0, (1 + plain / size) / 2, 0.5)  # [m]
        up = torch.rand(plain.shape, generator=generator, device=plain.device) < positive  # [m]
        kept = torch.where(up, scaled.clamp_min(0), scaled.clamp_max(0)).sum(0)  # [m]
        return torch.lerp(kept, plain, self.leak)
