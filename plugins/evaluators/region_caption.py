"""How well a model describes given regions: caption metrics of what it generates, token accuracy of the references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from core.contracts import BadSample, Count, Dataset, Item, Model, Picture, Region
from plugins.evaluators import caption_metrics
from plugins.evaluators._forced import forced
from plugins.evaluators.items import at_least_one, bad_item, by_mask, described, normalised, pictures
from plugins.evaluators.vocabularies import Vocabularies

NEEDS = frozenset({"caption", "cells"})  # a region without a cell of the prompt grid cannot be asked about


class RegionCaption:
    """Describes the regions of a captioned data set: RefCOCOg, DAM, or any other. Equal masks in one picture are one region
    with several references.

    ``max_samples`` pictures are taken, spread evenly over the set, and of each the first ``max_texts_per_image`` regions.
    ``max_new_tokens``: of a generated caption (default: ``caption_length``, at which references are cut for teacher forcing).
    ``text_metrics`` need the package's extra ``caption``; METEOR also needs Java and is left out by default.
    ``words``: vocabularies by name, for example ``{colour: [red, light blue], shape: [circle, square]}``.

    Metrics: CIDEr (0..10), BLEU-1..4, ROUGE-L; exact_match (share of captions equal to a reference, up to case and white
    space); caption_token_accuracy (share of reference tokens, the turn's end included, that have the largest logit under
    teacher forcing), caption_ce (nats per token); n_regions; words/NAME of each vocabulary (share of the captions that say the same words
    of it as a reference does, of those whose references say any). On sheets the score is the share of right tokens.
    """

    lowest_is_best = frozenset({"caption_ce"})

    def __init__(
        self,
        *,
        data: Dataset,
        max_samples: Count | None = None,
        max_texts_per_image: Count | None = None,
        max_new_tokens: Count | None = None,
        caption_length: Count = 64,
        batch_size: Count = 8,
        text_metrics: list[caption_metrics.Metric] | None = None,
        words: dict[str, list[str]] | None = None,
    ) -> None:
        at_least_one(max_samples=max_samples, max_texts_per_image=max_texts_per_image, max_new_tokens=max_new_tokens)
        at_least_one(caption_length=caption_length, batch_size=batch_size)
        self.wanted: list[caption_metrics.Metric] = ["CIDEr", "BLEU", "ROUGE-L"] if text_metrics is None else text_metrics
        caption_metrics.check(self.wanted)
        self.vocabularies = Vocabularies(words or {})
        self.data, self.caption_length, self.batch_size = data, caption_length, batch_size
        self.max_texts, self.max_new_tokens = max_texts_per_image, max_new_tokens or caption_length
        self._units = pictures(data, max_samples)

    def __len__(self) -> int:
        return len(self._units)

    def measure(self, model: Model, unit: int) -> list[Item]:
        regions, items = described(self.data, self._units[unit])
        asked = []  # index, region, prepared sample, references
        for members in by_mask(regions)[: self.max_texts]:
            region = regions[members[0]]
            try:
                asked.append((members[0], region, model.preparation(region, NEEDS), [regions[i].caption or "" for i in members]))
            except BadSample as error:
                items.append(bad_item(error))
        for start in range(0, len(asked), self.batch_size):
            items += self._describe(model, asked[start : start + self.batch_size])
        return items

    def _describe(self, model: Model, asked: list[tuple[int, Region, Any, list[str]]]) -> list[Item]:
        device = model.head()[0].device
        batch = model.preparation.collate([sample for _, _, sample, _ in asked]).to(device)
        vision = model.encode(batch)
        texts = model.decode(model.generate(vision, batch.view1, batch.cells, self.max_new_tokens))
        owners = [row for row, (_, _, _, references) in enumerate(asked) for _ in references]
        counted = []  # (right tokens, tokens, summed cross entropy) of every reference
        for start in range(0, len(owners), self.batch_size):
            rows = owners[start : start + self.batch_size]  # b
            captions = [text for _, _, _, references in asked for text in references][start : start + self.batch_size]
            counted += forced(model, vision, batch.view1[rows], [batch.cells[row] for row in rows], captions, self.caption_length)
        items = []
        for row, ((index, region, _, references), text) in enumerate(zip(asked, texts, strict=True)):
            right, tokens, ce = (
                sum(column) for column in zip(*(f for f, own in zip(counted, owners, strict=True) if own == row), strict=True)
            )
            match = normalised(text) in map(normalised, references)
            counts = {"right": right, "tokens": tokens, "ce": ce, "match": match, "score": right / tokens}
            items.append({"id": region.id, "index": index, "references": references, "text": text} | counts)
        return items

    def tally(self, items: Sequence[Item]) -> Mapping[str, np.ndarray]:
        names = ("right", "tokens", "ce", "match")
        sums = {name: np.array([item[name] for item in items], dtype=np.float64) for name in names}
        texts, references = [item["text"] for item in items], [item["references"] for item in items]
        sums |= {"regions": np.ones(len(items))} | caption_metrics.tally(texts, references, self.wanted)
        return sums | self.vocabularies.tally(texts, references)

    def metrics(self, sums: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        n = sums["regions"]
        own = {
            "exact_match": sums["match"] / n,
            "caption_token_accuracy": sums["right"] / sums["tokens"],
            "caption_ce": sums["ce"] / sums["tokens"],
            "n_regions": n,
        }
        return caption_metrics.metrics(sums, n) | own | self.vocabularies.metrics(sums)

    def whole(self, items: Sequence[Item]) -> dict[str, float]:
        """METEOR, where it is asked for."""
        if "METEOR" not in self.wanted:
            return {}
        return {"METEOR": caption_metrics.meteor([item["text"] for item in items], [item["references"] for item in items])}

    def picture(self, item: Item) -> Picture:
        """Reads the sample again."""
        region = self.data[item["index"]]
        return Picture(item["references"][0], region.image, region.mask, text=item["text"], score=item["score"])
