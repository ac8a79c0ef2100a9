"""Soft text: each token is the mean embedding under the predicted distribution. No draw, and an exact gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from core.contracts import Positive
from core.late import torch
from plugins.samplers._dense import all_logits, mixture, positive_temperature, seen

if TYPE_CHECKING:
    from torch import Tensor


class Soft:
    """``softmax(logits / temperature) @ embedding``; the second forward then reads mixtures that no real text contains.

    Holds [B, T, V] tensors. temperature: towards 0 the mixture becomes the likeliest token.
    """

    def __init__(self, *, temperature: Positive = 1.0) -> None:
        self.temperature = positive_temperature(temperature)

    def __call__(
        self, states: Tensor, head: tuple[Tensor, Tensor | None], embedding: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """As ``core.contracts.Sampler``; ``ids`` are the likeliest tokens, and nothing is drawn."""
        logits = all_logits(states, head)  # [B, T, V]
        return mixture((logits / self.temperature).softmax(2), embedding), seen(logits.argmax(2))
