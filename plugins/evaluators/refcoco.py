"""Referring segmentation as RefCOCO/+/g measure it: the model generates, the first mask counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from core.contracts import Count, Dataset, Item, Model, Picture
from plugins.evaluators import mask_metrics
from plugins.evaluators._rle import decoded, encoded
from plugins.evaluators.items import at_least_one, described, pictures


class RefcocoEvaluator:
    """Asks for every expression with the evaluation template and scores the first mask; no mask is an empty mask.

    All expressions about one picture go to the model in one call. ``max_samples`` pictures are taken, spread evenly over the
    set, and of each the first ``max_texts_per_image`` expressions. Metrics: cIoU (the literature's Acc), gIoU,
    precision@0.5/0.7/0.9, no_seg_share, n_expressions, n_pictures.
    """

    lowest_is_best = frozenset({"no_seg_share"})

    def __init__(
        self,
        *,
        data: Dataset,
        max_samples: Count | None = None,
        max_texts_per_image: Count | None = None,
        max_new_tokens: Count = 512,
    ) -> None:
        at_least_one(max_samples=max_samples, max_texts_per_image=max_texts_per_image, max_new_tokens=max_new_tokens)
        self.data, self.max_new_tokens = data, max_new_tokens
        self._units = [group[:max_texts_per_image] for group in pictures(data, max_samples)]

    def __len__(self) -> int:
        return len(self._units)

    def measure(self, model: Model, unit: int) -> list[Item]:
        """An item keeps the generated text and the mask, as COCO's compressed RLE."""
        regions, items = described(self.data, self._units[unit])
        if not regions:
            return items
        first = next(iter(regions.values()))
        answers = model.predict(first.image, [region.caption or "" for region in regions.values()], self.max_new_tokens)
        for (index, region), answer in zip(regions.items(), answers, strict=True):
            item = mask_metrics.compared(answer.mask, region.mask)
            asked = {"id": region.id, "index": index, "phrase": region.caption, "text": answer.text}
            items.append(asked | item | {"score": item["iou"], "mask": encoded(answer.mask)})
        return items

    def tally(self, items: Sequence[Item]) -> Mapping[str, np.ndarray]:
        units = [item["unit"] for item in items]
        new = np.array([here != before for here, before in zip(units, [None, *units], strict=False)], dtype=np.float64)
        return mask_metrics.tally(items) | {"pictures": new}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return mask_metrics.metrics(sums) | {"n_pictures": sums["pictures"]}

    def picture(self, item: Item) -> Picture:
        """Reads the sample again."""
        region = self.data[item["index"]]
        return Picture(item["phrase"], region.image, region.mask, decoded(item["mask"]), item["text"], item["score"])
