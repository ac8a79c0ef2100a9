"""A mask loss: how far the soft masks are from covering each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class ClashRight:
    """One minus the soft IoU of each mask. ``weight``: of the term in its loop, not negative."""

    def __init__(self, *, weight: float = 1.0) -> None:
        if weight < 0:
            raise ValueError(f"weight is {weight}: a term cannot count less than nothing.")
        self.weight = weight

    def __call__(self, logits: torch.Tensor, target: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Logits and masks [B, h, w] give the loss [B] in float32; nothing is drawn."""
        predicted, wanted = logits.float().sigmoid().flatten(1), target.float().flatten(1)  # [B, h * w]
        both = (predicted * wanted).sum(1)
        return 1 - both / (predicted.sum(1) + wanted.sum(1) - both).clamp_min(1e-6)
