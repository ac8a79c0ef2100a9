"""A training task: segment the region that a caption names, and show what became of it."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import torch
from core.contracts import LossTerm, LossTerms, MaskLoss, Model, Noise, RegionBatch, Sample, Segmentation, Teacher, TokenLoss, Wording
from torch import Tensor


class Losses(TypedDict):
    """``mask``: predicted against true mask. ``answer``: the fixed answer, which keeps the model emitting [SEG]."""

    mask: MaskLoss
    answer: TokenLoss


class TemplateName:
    """Teacher-forced segmentation of each region by its caption."""

    needs = frozenset({"caption"})

    def __init__(self, *, losses: Losses, caption_length: int = 64) -> None:
        if caption_length < 1:
            raise ValueError(f"caption_length must be at least 1, not {caption_length}.")
        self.losses, self.caption_length = losses, caption_length

    def counts(self, model: Model, batch: RegionBatch, noise: Noise) -> dict[str, int]:
        return {"mask": len(batch), "answer": int(model.wording(batch.ids, noise).answers.mask.sum())}

    def __call__(self, model: Model, teacher: Teacher | None, batch: RegionBatch, noise: Noise) -> LossTerms:
        result, wording = self._segmented(model, batch, noise)
        mask, answer = self.losses["mask"], self.losses["answer"]
        # the purpose is any text of your own: another one gives other draws, the same one the same draws again
        points = [noise.generator(sample, "points") for sample in batch.ids]
        terms = {
            "mask": LossTerm(mask(result.mask_logits, batch.mask1, points).sum(), len(batch), mask.weight),
            "answer": LossTerm(answer(result.answer_states, wording.answers, model.head()), int(wording.answers.mask.sum()), answer.weight),
        }
        return LossTerms(terms, {"iou": (float(overlap(result.mask_logits, batch.mask1).sum()), float(len(batch)))})

    def samples(self, model: Model, teacher: Teacher | None, batch: RegionBatch, noise: Noise) -> list[Sample]:
        """Asked for every ``train.samples_every`` updates: each region with its phrase, its mask and the predicted one."""
        result, _ = self._segmented(model, batch, noise)
        pictures, scores = batch.sam_pictures[batch.view1], overlap(result.mask_logits, batch.mask1)  # [B, 3, R, R], [B]
        shown = []
        for i, (name, caption) in enumerate(zip(batch.ids, batch.captions, strict=True)):
            image = pictures[i].permute(1, 2, 0).cpu().numpy()  # [R, R, 3] uint8
            truth, predicted = (enlarged(mask, len(image)) for mask in (batch.mask1[i], result.mask_logits[i] > 0))
            texts = {"phrase": caption or ""}
            shown.append(Sample(name, image, truth, predicted, score=float(scores[i]), id=name, texts=texts))
        return shown

    def _segmented(self, model: Model, batch: RegionBatch, noise: Noise) -> tuple[Segmentation, Wording]:
        phrase = model.phrases([text or "" for text in batch.captions], self.caption_length)  # [B, T]
        wording = model.wording(batch.ids, noise)
        return model.segment(model.encode(batch), batch.view1, model.embed(phrase.ids), phrase.mask, wording), wording


def overlap(logits: Tensor, target: Tensor) -> Tensor:
    """[B, h, w] logits and masks -> [B] IoU; 1 where both are empty."""
    predicted = logits.detach() > 0
    inter, union = (predicted & target).sum((1, 2)), (predicted | target).sum((1, 2))
    return torch.where(union > 0, inter / union.clamp_min(1), 1.0)


def enlarged(mask: Tensor, side: int) -> np.ndarray:
    """[h, w] bool -> [side, side] bool, by nearest pixels."""
    small = mask.cpu().numpy()
    rows, columns = (np.arange(side) * size // side for size in small.shape)
    large: np.ndarray = small[rows][:, columns]
    return large
