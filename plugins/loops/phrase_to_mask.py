"""The first training stage of the mask decoder: words to mask, without the language model. For a freshly initialised model only."""

from __future__ import annotations

from core.contracts import Count, LossTerm, LossTerms, MaskLoss, Model, Noise, Positive, RegionBatch, Teacher
from plugins.loops._segmentation import PhraseLosses, guide_embedding, iou_metric, positive, text_of


class PhraseToMask:
    """Feeds the decoder ``text_hidden_fcs(scale * mean of the phrase's token embeddings)``; cheap, since nothing else runs."""

    needs = frozenset({"caption"})
    forwards, views = ("masks",), 1

    def __init__(self, *, losses: PhraseLosses, caption_length: Count = 64, scale: Positive = 6.0) -> None:
        positive(caption_length=caption_length, scale=scale)
        self.losses, self.caption_length, self.scale = losses, caption_length, scale

    def counts(self, model: Model, batch: RegionBatch, noise: Noise) -> dict[str, int]:
        return {"mask": len(batch)}

    def __call__(self, model: Model, teacher: Teacher | None, batch: RegionBatch, noise: Noise) -> LossTerms:
        guide = guide_embedding(model, model.phrases(text_of(batch), self.caption_length), self.scale)  # [B, D2]
        logits = model.masks(model.encode(batch), batch.view1, guide)  # [B, h, w]
        loss: MaskLoss = self.losses["mask"]
        total = loss(logits, batch.mask1, [noise.generator(sample, "points") for sample in batch.ids]).sum()
        return LossTerms({"mask": LossTerm(total, len(batch), loss.weight)}, {"iou": iou_metric(logits, batch.mask1)})
