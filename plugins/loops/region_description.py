"""Plain region description: picture + mask -> caption, teacher-forced."""

from __future__ import annotations

from typing import TypedDict

from core.contracts import Count, LossTerm, LossTerms, Model, Noise, RegionBatch, Sample, Teacher, TokenLoss
from plugins.loops._samples import samples_of
from plugins.loops._segmentation import positive, text_of


class DescriptionLosses(TypedDict):
    """``caption``: the description against the data set's."""

    caption: TokenLoss


class RegionDescription:
    """Supervised description of the true region."""

    needs = frozenset({"caption"})
    forwards, views = ("caption_states",), 1

    def __init__(self, *, losses: DescriptionLosses, caption_length: Count = 256) -> None:
        positive(caption_length=caption_length)
        self.losses, self.caption_length = losses, caption_length

    def counts(self, model: Model, batch: RegionBatch, noise: Noise) -> dict[str, int]:
        return {"caption": int(model.tokenize(text_of(batch), self.caption_length).mask.sum())}

    def __call__(self, model: Model, teacher: Teacher | None, batch: RegionBatch, noise: Noise) -> LossTerms:
        vision = model.encode(batch)
        captions = model.tokenize(text_of(batch), self.caption_length)  # [B, T]
        states = model.caption_states(vision, batch.view1, batch.cells, captions)  # [B, T, D]
        loss = self.losses["caption"]
        return LossTerms({"caption": LossTerm(loss(states, captions, model.head()), int(captions.mask.sum()), loss.weight)})

    def samples(self, model: Model, teacher: Teacher | None, batch: RegionBatch, noise: Noise) -> list[Sample]:
        """``caption``: the data set's. ``student``: the model's own."""
        vision = model.encode(batch)
        written = model.decode(model.generate(vision, batch.view1, batch.cells, self.caption_length))
        texts = {"caption": text_of(batch), "student": written}
        return samples_of(batch, batch.view1, batch.mask1, None, text_of(batch), texts)
