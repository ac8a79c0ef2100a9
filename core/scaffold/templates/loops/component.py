"""A training task: describe the region."""

from __future__ import annotations

from typing import TypedDict

from core.contracts import LossTerm, LossTerms, Model, Noise, RegionBatch, Teacher, TokenLoss


class Losses(TypedDict):
    """``caption``: the description against the data set's."""

    caption: TokenLoss


class TemplateName:
    """Teacher-forced description of each region."""

    needs = frozenset({"caption"})

    def __init__(self, *, losses: Losses, caption_length: int = 64) -> None:
        if caption_length < 1:
            raise ValueError(f"caption_length must be at least 1, not {caption_length}.")
        self.losses, self.caption_length = losses, caption_length

    def counts(self, model: Model, batch: RegionBatch, noise: Noise) -> dict[str, int]:
        return {"caption": int(model.tokenize([text or "" for text in batch.captions], self.caption_length).mask.sum())}

    def __call__(self, model: Model, teacher: Teacher | None, batch: RegionBatch, noise: Noise) -> LossTerms:
        captions = model.tokenize([text or "" for text in batch.captions], self.caption_length)  # [B, T]
        states = model.caption_states(model.encode(batch), batch.view1, batch.cells, captions)  # [B, T, D]
        loss = self.losses["caption"]
        return LossTerms({"caption": LossTerm(loss(states, captions, model.head()), int(captions.mask.sum()), loss.weight)})
