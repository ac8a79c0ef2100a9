"""Mean IoU of the masks that the model predicts for the descriptions of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from core.contracts import BadSample, Dataset, Item, Model, Picture


class TemplateName:
    """Metrics: mean_iou in 0..1 over the described regions, n_regions. A unit is one region."""

    def __init__(self, *, data: Dataset, max_new_tokens: int = 32) -> None:
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}.")
        self.data, self.max_new_tokens = data, max_new_tokens

    def __len__(self) -> int:
        return len(self.data)

    def measure(self, model: Model, unit: int) -> list[Item]:
        region = self.data[unit]
        if not region.caption:
            raise BadSample("no description", region.id)
        [answer] = model.predict(region.image, [region.caption], self.max_new_tokens)
        mask = np.zeros_like(region.mask) if answer.mask is None else answer.mask  # [H, W]
        union = (mask | region.mask).sum()
        iou = float((mask & region.mask).sum() / union) if union else 1.0
        return [{"id": region.id, "text": answer.text, "score": iou}]

    def tally(self, items: Sequence[Item]) -> Mapping[str, np.ndarray]:
        return {"ious": np.array([item["score"] for item in items]), "regions": np.ones(len(items))}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return {"mean_iou": sums["ious"] / sums["regions"], "n_regions": sums["regions"]}

    def picture(self, item: Item) -> Picture:
        region = self.data[item["unit"]]
        return Picture(region.caption or "", region.image, region.mask, text=item["text"], score=item["score"])
