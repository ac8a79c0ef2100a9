"""Captions under teacher forcing: what evaluators of descriptions count token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.contracts import Model
from core.late import F, torch


def forced(
    model: Model, vision: Any, view: torch.Tensor, cells: Sequence[torch.Tensor], captions: Sequence[str], length: int
) -> list[tuple[int, int, float]]:
    """(right tokens, tokens, summed cross entropy) of each of the b ``captions`` of the regions ``cells`` of pictures ``view`` [b].

    Captions are cut to ``length`` tokens, the turn's end included; a token is right if it has the largest logit.
    """
    weight, bias = model.head()  # [V, D], [V]
    tokens = model.tokenize(captions, length)
    ids, mask = tokens.ids, tokens.mask  # [b, T]
    states = model.caption_states(vision, view, cells, tokens)  # [b, T, D]
    logits = F.linear(states[mask].to(weight.dtype), weight, bias).float()  # [M, V], the M real tokens only
    ce, hits = torch.zeros(mask.shape, device=logits.device), torch.zeros_like(mask)  # [b, T]
    ce[mask] = F.cross_entropy(logits, ids[mask], reduction="none")
    hits[mask] = logits.argmax(-1) == ids[mask]
    return list(zip(hits.sum(1).tolist(), mask.sum(1).tolist(), ce.double().sum(1).tolist(), strict=True))
