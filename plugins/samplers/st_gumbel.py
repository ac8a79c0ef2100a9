"""Straight-through Gumbel sampling over the whole vocabulary: the plain form of ``st_gumbel_topk``.

Source: straight-through Gumbel-softmax, Jang et al., arXiv:1611.01144.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from core.contracts import Positive
from core.late import torch
from plugins.samplers._dense import all_logits, positive_temperature, seen, straight_through
from plugins.samplers.st_gumbel_topk import gumbel

if TYPE_CHECKING:
    from torch import Tensor


class StGumbel:
    """Forward: the embedding row of the token with the largest ``logit + gumbel``, a draw from ``softmax(logits)``.
    Backward: the gradient of ``softmax((logit + gumbel) / temperature) @ embedding``.

    Holds several [B, T, V] tensors: 300 MB each at B 4, T 128, V 151,674. temperature: of the soft weights.
    """

    def __init__(self, *, temperature: Positive = 0.7) -> None:
        self.temperature = positive_temperature(temperature)

    def __call__(
        self, states: Tensor, head: tuple[Tensor, Tensor | None], embedding: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """As ``core.contracts.Sampler``; row b's noise is the next T * V draws of generator b."""
        logits = all_logits(states, head)  # [B, T, V]
        noise = torch.stack([gumbel(states.shape[1], logits.shape[2], generator) for generator in generators])  # [B, T, V]
        noisy = logits + noise.to(logits.device)  # [B, T, V]
        ids = noisy.argmax(2)  # [B, T]
        return straight_through(ids, (noisy / self.temperature).softmax(2), embedding), seen(ids)
