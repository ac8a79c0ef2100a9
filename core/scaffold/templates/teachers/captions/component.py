"""A teacher that writes the captions itself: any program that can describe a region, instead of other weights of the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from core.contracts import Model, RegionBatch, Tokens
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F


class TemplateName:
    """Says whether a region is bright or dark. ``threshold``: the mean brightness, 0..1, from which it is bright."""

    def __init__(self, *, threshold: float = 0.5) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie in 0..1, not {threshold}.")
        self.threshold = threshold

    def captions(self, model: Model, vision: Any, batch: RegionBatch, length: int) -> Tokens:
        """The first views' regions in the student's tokens, at most ``length``; without the turn's end, as ``Model.generate`` gives."""
        pictures = batch.sam_pictures[batch.view1].float().mean(1) / 255  # [B, R, R]
        masks = F.interpolate(batch.mask1[:, None].float(), pictures.shape[1:])[:, 0]  # [B, R, R]
        light = (pictures * masks).sum((1, 2)) / masks.sum((1, 2)).clamp_min(1)  # [B]
        texts = ["a bright region" if bright else "a dark region" for bright in (light >= self.threshold).tolist()]
        tokens = model.tokenize(texts, length + 1)  # [B, T], with the turn's end
        mask = tokens.mask & (torch.arange(tokens.mask.shape[1], device=tokens.mask.device) < tokens.mask.sum(1, keepdim=True) - 1)
        return Tokens(torch.where(mask, tokens.ids, model.pad_token)[:, :length], mask[:, :length])

    def start(self, groups: Mapping[str, Sequence[tuple[str, Parameter]]]) -> None:
        """Called once with the trained parameters, on their device."""

    def weights(self) -> AbstractContextManager[None]:
        """For loops that ask the teacher for more than captions: here the student itself, without gradient."""
        without: AbstractContextManager[None] = torch.no_grad()
        return without

    def update(self) -> None:
        """Called after each optimizer step."""

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what ``state_dict`` gave."""
