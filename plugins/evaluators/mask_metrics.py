"""Metrics of predicted masks, as sums over expressions; in numpy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from core.contracts import Item

THRESHOLDS = (0.5, 0.7, 0.9)


def compared(predicted: np.ndarray | None, truth: np.ndarray) -> Item:
    """``intersection`` and ``union`` in pixels, ``iou``, and ``seg``, whether there is a mask; None is an empty mask.

    [H, W] bool each. The IoU of two empty masks is 1. Raises ValueError where the sizes differ.
    """
    if predicted is not None and predicted.shape != truth.shape:
        raise ValueError(f"the predicted mask is {predicted.shape}, the true one {truth.shape}.")
    mask = np.zeros_like(truth) if predicted is None else predicted  # [H, W]
    intersection, union = int((mask & truth).sum()), int((mask | truth).sum())
    iou = intersection / union if union else 1.0
    return {"intersection": intersection, "union": union, "iou": iou, "seg": predicted is not None}


def tally(items: Sequence[Item]) -> dict[str, np.ndarray]:
    """What each expression adds to the sums that ``metrics`` takes: [n] each."""
    iou = np.array([item["iou"] for item in items], dtype=np.float64)
    return {
        "intersections": np.array([item["intersection"] for item in items], dtype=np.float64),
        "unions": np.array([item["union"] for item in items], dtype=np.float64),
        "ious": iou,
        **{f"above {t}": (iou > t).astype(np.float64) for t in THRESHOLDS},
        "without": np.array([not item["seg"] for item in items], dtype=np.float64),
        "expressions": np.ones(len(items)),
    }


def metrics(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """cIoU = sum of intersections / sum of unions, gIoU = mean IoU, precision@t = share with IoU > t, share without [SEG].

    The definitions of the referring segmentation literature (LAVT, GRES); cIoU is 1 where all masks were empty on both sides.
    """
    n, unions = sums["expressions"], sums["unions"]
    return {
        "cIoU": np.where(unions > 0, sums["intersections"] / np.maximum(unions, 1), 1.0),
        "gIoU": sums["ious"] / n,
        **{f"precision@{t}": sums[f"above {t}"] / n for t in THRESHOLDS},
        "no_seg_share": sums["without"] / n,
        "n_expressions": n,
    }
