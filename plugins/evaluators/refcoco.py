"""Referring segmentation as RefCOCO/+/g measure it: the model generates, the first mask counts."""

from __future__ import annotations

from collections.abc import Callable

from core.contracts import BadSample, Dataset, Evaluation, Model, Picture, Region, UserError
from plugins.evaluators.items import BadItems, spread
from plugins.evaluators.mask_metrics import MaskScores


class RefcocoEvaluator:
    """Asks for every expression with the evaluation template and scores the first mask; no mask is an empty mask.

    All expressions about one picture go to the model in one call: a data set may group its items by picture with a
    method ``images() -> list[list[int]]``; without it each item is a picture of its own.

    ``max_samples`` pictures are taken, spread evenly over the set, and of each the first ``max_texts_per_image``
    expressions. Metrics: cIoU, gIoU, precision@0.5/0.7/0.9, no_seg_share, n_expressions, n_pictures, n_bad (items that
    could not be read or have no phrase). ``pictures`` is the number of pictures for the sheet.
    """

    def __init__(
        self,
        *,
        data: Dataset,
        max_samples: int | None = None,
        max_texts_per_image: int | None = None,
        max_new_tokens: int = 512,
        pictures: int = 12,
    ) -> None:
        for name, value in (("max_samples", max_samples), ("max_texts_per_image", max_texts_per_image), ("max_new_tokens", max_new_tokens)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}.")
        if pictures < 0:
            raise ValueError(f"pictures must not be negative, not {pictures}.")
        self.data, self.max_samples, self.max_texts_per_image = data, max_samples, max_texts_per_image
        self.max_new_tokens, self.pictures = max_new_tokens, pictures

    def evaluate(self, model: Model, progress: Callable[[int, int], None]) -> Evaluation:
        """Raises UserError where the data set has no usable expression."""
        groups = self._groups()
        shown = set(spread(len(groups), self.pictures))
        scores, sheet = MaskScores(), []
        n_pictures, bad = 0, BadItems()
        for done, group in enumerate(groups, start=1):
            regions = self._read(group, bad)
            if regions:
                n_pictures += 1
                answers = model.predict(regions[0].image, [region.caption or "" for region in regions], self.max_new_tokens)
                for number, (region, answer) in enumerate(zip(regions, answers, strict=True)):
                    iou = scores.add(answer.mask, region.mask)
                    if number == 0 and done - 1 in shown:
                        sheet.append(Picture(region.caption or "", region.image, region.mask, answer.mask, answer.text, iou))
            progress(done, len(groups))
        if not scores.n:
            raise UserError(f"The evaluation data set gave no usable expression ({bad or 'it is empty'}): check its paths and split.")
        bad.report(len(bad) + scores.n)
        return Evaluation(scores.metrics() | {"n_pictures": float(n_pictures), "n_bad": float(len(bad))}, sheet)

    def _groups(self) -> list[list[int]]:
        images = getattr(self.data, "images", None)
        groups = images() if callable(images) else [[item] for item in range(len(self.data))]
        return [groups[number][: self.max_texts_per_image] for number in spread(len(groups), self.max_samples)]

    def _read(self, group: list[int], bad: BadItems) -> list[Region]:
        """The usable regions of one picture; the others go to ``bad``."""
        regions = []
        for item in group:
            try:
                region = self.data[item]
                if not region.caption:
                    raise BadSample("no phrase", region.id)
                regions.append(region)
            except BadSample as error:
                bad.add(error)
        return regions
