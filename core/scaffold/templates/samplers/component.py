"""Soft text without noise: the expected token embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


class TemplateName:
    """``softmax(logits / temperature) @ embedding``; gradient flows to the states through all tokens."""

    def __init__(self, *, temperature: float = 1.0) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be greater than 0, not {temperature}.")
        self.temperature = temperature

    def __call__(
        self, states: Tensor, head: tuple[Tensor, Tensor | None], embedding: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """[B, T, D] states -> [B, T, D] text, and diagnostics [B, T]. Nothing is drawn from the generators."""
        logits = F.linear(states.to(head[0].dtype), *head)  # [B, T, V]
        soft = (logits / self.temperature).softmax(-1)  # [B, T, V]
        mass = torch.ones_like(soft[..., 0], dtype=torch.float32)  # [B, T]: all tokens are kept
        return soft.to(embedding.dtype) @ embedding, {"topk_mass": mass, "ids": logits.argmax(-1)}
