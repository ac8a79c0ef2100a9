"""Loop 2: caption -> mask' -> caption', on described regions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from core.contracts import (
    Count,
    LossTerm,
    LossTerms,
    Model,
    Noise,
    Outlook,
    RegionBatch,
    Sample,
    Segmentation,
    Teacher,
    TokenLoss,
    Wording,
    cell_means,
)
from plugins.loops._outlook import from_masks
from plugins.loops._samples import samples_of
from plugins.loops._segmentation import answer_term, iou_metric, positive, text_of

if TYPE_CHECKING:
    from torch import Tensor


class CycleLosses(TypedDict):
    """``caption``: caption' against caption. ``answer``: the fixed segmentation answer."""

    caption: TokenLoss
    answer: TokenLoss


@dataclass(frozen=True)
class Found:
    """What the model finds for the captions."""

    vision: Any  # the model's features of the pictures
    wording: Wording
    result: Segmentation
    probability: list[Tensor]  # B of [gh, gw], the mask's mean over each grid cell
    cells: list[Tensor]  # B of [gh, gw] bool: the predicted region


class CaptionMaskCaption:
    """The model segments the object in the caption, then describes the predicted mask.

    The predicted mask enters as the grid cells whose mean probability exceeds one half. If it is empty, the region list
    is empty and the loss is still computed. ``mask_gradient: straight_through`` scales the chosen region tokens
    by ``1 + p - stop_gradient(p)``, so that the caption loss also reaches the mask path.
    """

    needs = frozenset({"caption"})
    forwards, views = ("segment", "caption_states"), 1

    def __init__(
        self, *, losses: CycleLosses, caption_length: Count = 256, mask_gradient: Literal["none", "straight_through"] = "none"
    ) -> None:
        positive(caption_length=caption_length)
        self.losses, self.caption_length, self.mask_gradient = losses, caption_length, mask_gradient

    def counts(self, model: Model, batch: RegionBatch, noise: Noise) -> dict[str, int]:
        tokens = model.tokenize(text_of(batch), self.caption_length)
        return {"caption": int(tokens.mask.sum()), "answer": int(model.wording(batch.ids, noise).answers.mask.sum())}

    def segmented(self, model: Model, batch: RegionBatch, noise: Noise) -> Found:
        vision = model.encode(batch)
        phrase = model.phrases(text_of(batch), self.caption_length)  # [B, T]
        wording = model.wording(batch.ids, noise)
        result = model.segment(vision, batch.view1, model.embed(phrase.ids), phrase.mask, wording)
        probability = cell_means(result.mask_logits, [batch.grids[picture] for picture in batch.view1.tolist()])  # B of [gh, gw]
        return Found(vision, wording, result, probability, [mean > 0.5 for mean in probability])

    def __call__(self, model: Model, teacher: Teacher | None, batch: RegionBatch, noise: Noise) -> LossTerms:
        found = self.segmented(model, batch, noise)
        gate = [1 + mean - mean.detach() for mean in found.probability] if self.mask_gradient == "straight_through" else None
        captions = model.tokenize(text_of(batch), self.caption_length)  # [B, T]
        states = model.caption_states(found.vision, batch.view1, found.cells, captions, gate)  # [B, T, D]
        loss = self.losses["caption"]
        return LossTerms(
            {
                "caption": LossTerm(loss(states, captions, model.head()), int(captions.mask.sum()), loss.weight),
                "answer": answer_term(found.result, found.wording, model, self.losses["answer"]),
            },
            {
                "iou": iou_metric(found.result.mask_logits, batch.mask1),
                "empty_masks": (float(sum(not bool(region.any()) for region in found.cells)), len(batch)),
            },
        )

    def outlook(self, figures: Mapping[str, float]) -> Outlook:
        return from_masks(figures)

    def samples(self, model: Model, teacher: Teacher | None, batch: RegionBatch, noise: Noise) -> list[Sample]:
        """``caption``: the data set's. ``student``: the predicted mask described again."""
        found = self.segmented(model, batch, noise)
        again = model.decode(model.generate(found.vision, batch.view1, found.cells, self.caption_length))
        texts = {"caption": text_of(batch), "student": again}
        return samples_of(batch, batch.view1, batch.mask1, found.result.mask_logits, text_of(batch), texts)
