"""What the samplers over the whole vocabulary share. They hold [B, T, V] tensors: for small vocabularies and as references."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.late import F, torch

if TYPE_CHECKING:
    from torch import Tensor


def all_logits(states: Tensor, head: tuple[Tensor, Tensor | None]) -> Tensor:
    """[B, T, D] states, output layer ([V, D], [V] or None) -> [B, T, V] in float32 (float64 for float64 weights)."""
    weight, bias = head
    with torch.autocast(states.device.type, enabled=False):
        return F.linear(states.to(weight.dtype), weight, bias).to(torch.promote_types(weight.dtype, torch.float32))


def mixture(soft: Tensor, embedding: Tensor) -> Tensor:
    """[B, T, V] weights, [V, D] embedding -> [B, T, D] in the embedding's dtype."""
    with torch.autocast(soft.device.type, enabled=False):
        return soft.to(embedding.dtype) @ embedding


def straight_through(ids: Tensor, soft: Tensor, embedding: Tensor) -> Tensor:
    """Forward: exactly the embedding rows of ``ids`` [B, T]; backward: the gradient of ``soft @ embedding``."""
    text = mixture(soft, embedding)  # [B, T, D]
    return embedding[ids].detach() + (text - text.detach())


def positive_temperature(temperature: float) -> float:
    """Raises ``ValueError`` unless it is above zero."""
    if not temperature > 0:
        raise ValueError(f"temperature must be greater than 0, not {temperature}.")
    return temperature


def seen(ids: Tensor) -> dict[str, Tensor]:
    """The diagnostics [B, T] of a choice that leaves no token out."""
    return {"topk_mass": torch.ones_like(ids, dtype=torch.float32), "ids": ids}
