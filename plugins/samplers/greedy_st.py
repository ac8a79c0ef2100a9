"""Greedy text with a straight-through gradient: no draw.

Source: the straight-through estimator, Bengio et al., arXiv:1308.3432.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from core.contracts import Positive
from core.late import torch
from plugins.samplers._dense import all_logits, positive_temperature, seen, straight_through

if TYPE_CHECKING:
    from torch import Tensor


class GreedySt:
    """Forward: the embedding row of the likeliest token. Backward: the gradient of ``softmax(logits / temperature) @ embedding``.

    Holds [B, T, V] tensors.
    """

    def __init__(self, *, temperature: Positive = 0.7) -> None:
        self.temperature = positive_temperature(temperature)

    def __call__(
        self, states: Tensor, head: tuple[Tensor, Tensor | None], embedding: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """As ``core.contracts.Sampler``; nothing is drawn."""
        logits = all_logits(states, head)  # [B, T, V]
        ids = logits.argmax(2)  # [B, T]
        return straight_through(ids, (logits / self.temperature).softmax(2), embedding), seen(ids)
