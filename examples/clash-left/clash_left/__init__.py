"""A mask loss: the absolute error of the mask's probability."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Generator, Tensor


class ClashLeft:
    """Mean over the pixels of ``|sigmoid(logit) - mask|``."""

    weight = 1.0

    def __call__(self, logits: Tensor, target: Tensor, generators: Sequence[Generator]) -> Tensor:
        """[B, h, w] logits, [B, h, w] bool, B generators (unused) -> [B] float32."""
        return (logits.float().sigmoid() - target.float()).abs().mean(dim=(1, 2))
