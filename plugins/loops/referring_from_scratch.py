"""Referring segmentation for a freshly initialised model, whose [SEG] state does not depend on the phrase yet."""

from __future__ import annotations

from typing import Annotated

from core.contracts import Count, LossTerm, LossTerms, Model, Noise, NotNegative, Positive, RegionBatch, Segmentation, Teacher, Within
from core.late import F
from plugins.loops._segmentation import (
    SegmentationLosses,
    answer_term,
    guide_embedding,
    iou_metric,
    mask_term,
    positive,
    segmentation_counts,
    text_of,
)


class ReferringFromScratch:
    """Warm-up of the [SEG] path; never needed with pretrained weights.

    Until update ``warmup_updates`` the mask decoder is fed ``text_hidden_fcs(scale * mean of the phrase's token embeddings)``
    (which ``phrase_to_mask`` has taught it) while the language model's own [SEG] embedding is pulled towards it (weight 1,
    afterwards ``pull``); then the model's own embedding drives the decoder. A freshly initialised [SEG] state hardly depends
    on the phrase: without this warm-up the decoder gets no information about the phrase.
    """

    needs = frozenset({"caption"})
    forwards, views = ("segment",), 1

    def __init__(
        self,
        *,
        losses: SegmentationLosses,
        warmup_updates: Annotated[int, Within(0)],
        caption_length: Count = 64,
        scale: Positive = 6.0,
        pull: NotNegative = 0.1,
    ) -> None:
        positive(caption_length=caption_length, scale=scale)
        self.losses, self.caption_length = losses, caption_length
        self.warmup_updates, self.scale, self.pull = warmup_updates, scale, pull

    def counts(self, model: Model, batch: RegionBatch, noise: Noise) -> dict[str, int]:
        return segmentation_counts(model, batch, noise) | {"pull": len(batch)}

    def __call__(self, model: Model, teacher: Teacher | None, batch: RegionBatch, noise: Noise) -> LossTerms:
        vision = model.encode(batch)
        phrase = model.phrases(text_of(batch), self.caption_length)  # [B, T]
        wording = model.wording(batch.ids, noise)
        result = model.segment(vision, batch.view1, model.embed(phrase.ids), phrase.mask, wording)
        guide = guide_embedding(model, phrase, self.scale)  # [B, D2]
        warming = noise.update < self.warmup_updates
        pull = F.mse_loss(result.seg_embedding, guide.detach(), reduction="none").mean(1).sum()
        if warming:
            result = Segmentation(model.masks(vision, batch.view1, guide), result.answer_states, result.seg_embedding)
        return LossTerms(
            {
                "mask": mask_term(result, batch.mask1, batch, noise, self.losses["mask"]),
                "answer": answer_term(result, wording, model, self.losses["answer"]),
                "pull": LossTerm(pull, len(batch), 1.0 if warming else self.pull),
            },
            {"iou": iou_metric(result.mask_logits, batch.mask1)},
        )
