"""The segmentation step that several loops share: a phrase (soft or real) to a mask, with its losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from core.contracts import LossTerm, MaskLoss, Model, Noise, RegionBatch, Segmentation, TokenLoss, Tokens, Wording
from core.late import no_grad, torch

if TYPE_CHECKING:
    from torch import Tensor


class SegmentationLosses(TypedDict):
    """``mask``: predicted against true mask. ``answer``: the fixed answer, which keeps the model emitting [SEG]."""

    mask: MaskLoss
    answer: TokenLoss


class PhraseLosses(TypedDict):
    """``mask``: predicted against true mask."""

    mask: MaskLoss


def guide_embedding(model: Model, phrase: Tokens, scale: float) -> Tensor:
    """[B, D2] language prompt made of a phrase's words alone: the scaled mean of their embeddings."""
    real = phrase.mask[..., None].float()  # [B, T, 1]
    mean = (model.embed(phrase.ids) * real).sum(1) / real.sum(1).clamp_min(1)  # [B, D]
    return model.seg_embedding(scale * mean)


def segmentation_counts(model: Model, batch: RegionBatch, noise: Noise) -> dict[str, int]:
    """Regions and answer tokens of a batch."""
    return {"mask": len(batch), "answer": int(model.wording(batch.ids, noise).answers.mask.sum())}


def mask_term(result: Segmentation, target: Tensor, batch: RegionBatch, noise: Noise, loss: MaskLoss) -> LossTerm:
    """[B, h, w] masks summed over regions."""
    points = [noise.generator(sample, "points") for sample in batch.ids]
    return LossTerm(loss(result.mask_logits, target, points).sum(), len(batch), loss.weight)


def answer_term(result: Segmentation, wording: Wording, model: Model, loss: TokenLoss) -> LossTerm:
    """Cross entropy summed over the tokens of the fixed answers."""
    return LossTerm(loss(result.answer_states, wording.answers, model.head()), int(wording.answers.mask.sum()), loss.weight)


@no_grad
def iou_metric(logits: Tensor, target: Tensor) -> tuple[float, float]:
    """(sum, count) of the IoU of masks at low resolution; 1 where both are empty."""
    predicted = logits > 0
    intersection = (predicted & target).sum((1, 2)).float()  # [B]
    union = (predicted | target).sum((1, 2)).float()
    return float(torch.where(union > 0, intersection / union.clamp_min(1), 1.0).sum()), float(len(logits))


@no_grad
def empty_metric(logits: Tensor, target: Tensor) -> tuple[float, float]:
    """(sum, count) over the regions whose true mask is empty: for how many the predicted one is."""
    empty = ~target.flatten(1).any(1)  # [B]
    found = empty & ~(logits > 0).flatten(1).any(1)
    return float(found.sum()), float(empty.sum())


def text_of(batch: RegionBatch) -> list[str]:
    """The captions of a batch whose samples all have one."""
    return [caption or "" for caption in batch.captions]


def positive(**values: Any) -> None:
    """Raises ``ValueError`` naming the first value that is not above zero."""
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name} must be positive, not {value}")
