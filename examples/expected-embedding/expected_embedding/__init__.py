"""Soft text without noise: the expected embedding over the likeliest tokens that together hold a given probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear


class ExpectedEmbedding:
    """The mean embedding of the fewest tokens whose probabilities reach ``mass``; the others are left out.

    The gradient flows to the states through the kept tokens alone. ``mass``: in 0..1; 1 keeps all tokens.
    """

    def __init__(self, *, mass: float = 0.95) -> None:
        if not 0 < mass <= 1:
            raise ValueError(f"mass is a probability above 0 and at most 1; {mass} is none.")
        self.mass = mass

    def __call__(
        self, states: Tensor, head: tuple[Tensor, Tensor | None], embedding: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """[B, T, D] states -> [B, T, D] text, and diagnostics [B, T]. No token is drawn."""
        probability = linear(states.to(head[0].dtype), *head).float().softmax(dim=2)  # [B, T, V]
        falling, ids = probability.sort(dim=2, descending=True)
        before = falling.detach().cumsum(dim=2) - falling.detach()  # [B, T, V]: what likelier tokens hold
        kept = falling * (before < self.mass)
        held = kept.sum(dim=2)  # [B, T]
        share = torch.zeros_like(probability).scatter(2, ids, kept / held.unsqueeze(2))  # [B, T, V]
        return share.to(embedding.dtype) @ embedding, {"topk_mass": held.detach(), "ids": ids[..., 0]}
