"""How well the masks fit that the model predicts for the descriptions of a data set: the mean IoU, and how many fit well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from core.contracts import BadSample, Dataset, Item, Model, Picture


class MeanIou:
    """Metrics: mean_iou and well (the share with an IoU of at least ``enough``), both in 0..1; n_regions. A unit is one region."""

    def __init__(self, *, data: Dataset, enough: float = 0.5, max_new_tokens: int = 32) -> None:
        if not 0 < enough <= 1:
            raise ValueError(f"enough is an IoU above 0 and at most 1; {enough} is none.")
        self.data, self.enough, self.max_new_tokens = data, enough, max_new_tokens

    def __len__(self) -> int:
        return len(self.data)

    def measure(self, model: Model, unit: int) -> list[Item]:
        region = self.data[unit]
        if region.caption is None:
            raise BadSample("nothing to find it by", region.id)
        answer = model.predict(region.image, [region.caption], self.max_new_tokens)[0]
        return [{"id": region.id, "said": answer.text, "iou": _iou(answer.mask, region.mask)}]

    def tally(self, items: Sequence[Item]) -> Mapping[str, np.ndarray]:
        ious = np.array([item["iou"] for item in items])  # [N]
        return {"iou": ious, "well": (ious >= self.enough).astype(float), "all": np.ones_like(ious)}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return {"mean_iou": sums["iou"] / sums["all"], "well": sums["well"] / sums["all"], "n_regions": sums["all"]}

    def picture(self, item: Item) -> Picture:
        shown = self.data[item["unit"]]
        return Picture(shown.caption or "", shown.image, shown.mask, text=item["said"], score=item["iou"])


def _iou(predicted: np.ndarray | None, mask: np.ndarray) -> float:
    """Of two masks [H, W] bool; 0 where nothing was predicted."""
    if predicted is None:
        return 0.0
    return float(np.logical_and(predicted, mask).sum() / max(np.logical_or(predicted, mask).sum(), 1))
