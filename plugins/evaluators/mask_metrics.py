"""Metrics of predicted masks: sums that can be merged over processes, in numpy alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

THRESHOLDS = (0.5, 0.7, 0.9)


@dataclass
class MaskScores:
    """Running sums over expressions. cIoU = sum of intersections / sum of unions, gIoU = mean IoU, precision@t = share with IoU > t.

    The definitions of the referring segmentation literature (LAVT, GRES); an IoU of two empty masks is 1.
    """

    n: int = 0
    intersections: int = 0  # pixels
    unions: int = 0  # pixels
    iou_sum: float = 0.0
    n_without_mask: int = 0
    above: Counter[float] = field(default_factory=Counter)  # threshold -> expressions

    def add(self, predicted: np.ndarray | None, truth: np.ndarray) -> float:
        """[H, W] bool each; None is an empty mask. Returns the IoU. Raises ValueError where the sizes differ."""
        if predicted is not None and predicted.shape != truth.shape:
            raise ValueError(f"the predicted mask is {predicted.shape}, the true one {truth.shape}.")
        truth = truth.astype(bool)
        mask = np.zeros_like(truth) if predicted is None else predicted.astype(bool)  # [H, W]
        intersection, union = int((mask & truth).sum()), int((mask | truth).sum())
        iou = intersection / union if union else 1.0
        self.n += 1
        self.intersections += intersection
        self.unions += union
        self.iou_sum += iou
        self.n_without_mask += predicted is None
        self.above.update(t for t in THRESHOLDS if iou > t)
        return iou

    @classmethod
    def merged(cls, parts: Sequence[MaskScores]) -> MaskScores:
        """The scores of all the parts together, as if one process had seen every expression."""
        total = cls()
        for part in parts:
            total.n += part.n
            total.intersections += part.intersections
            total.unions += part.unions
            total.iou_sum += part.iou_sum
            total.n_without_mask += part.n_without_mask
            total.above += part.above
        return total

    def metrics(self) -> dict[str, float]:
        """Needs at least one expression. Shares in 0..1; cIoU is 1 where every mask was empty on both sides."""
        if not self.n:
            raise ValueError("no expression was scored.")
        return {
            "cIoU": self.intersections / self.unions if self.unions else 1.0,
            "gIoU": self.iou_sum / self.n,
            **{f"precision@{t}": self.above[t] / self.n for t in THRESHOLDS},
            "no_seg_share": self.n_without_mask / self.n,
            "n_expressions": float(self.n),
        }
