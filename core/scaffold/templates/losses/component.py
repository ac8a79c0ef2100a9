"""A mask loss: the squared error of the mask's probability."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class TemplateName:
    """Mean over the pixels of ``(sigmoid(logit) - mask)^2``. ``weight`` is the term's weight in its loop."""

    def __init__(self, *, weight: float = 1.0) -> None:
        if not weight >= 0:
            raise ValueError(f"weight must not be negative, but is {weight}.")
        self.weight = weight

    def __call__(self, logits: Tensor, target: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """[B, h, w] logits, [B, h, w] bool, B generators (unused) -> [B] float32."""
        return (logits.float().sigmoid() - target.float()).square().mean((1, 2))  # [B]
