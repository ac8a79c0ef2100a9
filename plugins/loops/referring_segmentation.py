"""Plain referring segmentation: picture + phrase -> mask. RefCOCO's part in loop 1, and supervised training."""

from __future__ import annotations

from core.contracts import Count, LossTerms, Model, Noise, RegionBatch, Sample, Segmentation, Teacher, Wording
from plugins.loops._samples import samples_of
from plugins.loops._segmentation import (
    SegmentationLosses,
    answer_term,
    empty_metric,
    iou_metric,
    mask_term,
    positive,
    segmentation_counts,
    text_of,
)


class ReferringSegmentation:
    """The same template and losses as the second forward of loop 1, with a real phrase."""

    needs = frozenset({"caption"})
    forwards, views = ("segment",), 1

    def __init__(self, *, losses: SegmentationLosses, caption_length: Count = 256, empty_masks: bool = False) -> None:
        """``empty_masks``: takes phrases without a target too, as gRefCOCO has them; the answer stays, its mask is to be empty."""
        positive(caption_length=caption_length)
        self.losses, self.caption_length, self.empty_masks = losses, caption_length, empty_masks

    def counts(self, model: Model, batch: RegionBatch, noise: Noise) -> dict[str, int]:
        return segmentation_counts(model, batch, noise)

    def segmented(self, model: Model, batch: RegionBatch, noise: Noise) -> tuple[Segmentation, Wording]:
        vision = model.encode(batch)
        phrase = model.phrases(text_of(batch), self.caption_length)  # [B, T]
        wording = model.wording(batch.ids, noise)
        return model.segment(vision, batch.view1, model.embed(phrase.ids), phrase.mask, wording), wording

    def __call__(self, model: Model, teacher: Teacher | None, batch: RegionBatch, noise: Noise) -> LossTerms:
        result, wording = self.segmented(model, batch, noise)
        return LossTerms(
            {
                "mask": mask_term(result, batch.mask1, batch, noise, self.losses["mask"]),
                "answer": answer_term(result, wording, model, self.losses["answer"]),
            },
            {"iou": iou_metric(result.mask_logits, batch.mask1)}
            | ({"empty_found": empty_metric(result.mask_logits, batch.mask1)} if self.empty_masks else {}),
        )

    def samples(self, model: Model, teacher: Teacher | None, batch: RegionBatch, noise: Noise) -> list[Sample]:
        """``phrase``: what was asked."""
        result, _ = self.segmented(model, batch, noise)
        return samples_of(batch, batch.view1, batch.mask1, result.mask_logits, text_of(batch), {"phrase": text_of(batch)})
