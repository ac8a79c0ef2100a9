"""Each number of the update is taken from the gradients that agree on its sign: surgery that no weighted sum can do."""

from __future__ import annotations

import torch
from core.contracts import Gram
from torch import Tensor


class TemplateName:
    """The sign that the weighted gradients sum to is elected for each number; the gradients of that sign are summed, the others dropped.

    ``keep``: share of what disagrees that stays, 0..1; 1 is the plain sum.
    """

    def __init__(self, *, keep: float = 0.0) -> None:
        if not 0 <= keep <= 1:
            raise ValueError(f"keep must lie in 0..1, not {keep}.")
        self.keep = keep

    def weights(self, gram: Gram) -> Tensor:
        """[P, n] float64: the plain sum, which the log compares the update with."""
        return gram.scales.repeat(len(gram.groups), 1)

    def combine(self, gradients: Tensor, scales: Tensor, generator: torch.Generator) -> Tensor:
        """[n, m] float32 and [n] float64 -> [m]. Each number by itself: the engine gives one part of the parameters after another."""
        scaled = gradients * scales.to(gradients)[:, None]  # [n, m]
        agrees = scaled * scaled.sum(0) >= 0  # [n, m]
        return torch.where(agrees, scaled, self.keep * scaled).sum(0)
