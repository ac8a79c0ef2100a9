"""How well a model describes given regions: teacher-forced token accuracy and exact generated captions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from core.contracts import BadSample, Dataset, Evaluation, Model, Picture, Region, UserError
from plugins.evaluators.items import BadItems, spread

NEEDS = frozenset({"caption", "cells"})  # a region without a cell of the prompt grid cannot be asked about


def normalised(text: str) -> str:
    """Lower case, single spaces."""
    return " ".join(text.lower().split())


class RegionCaption:
    """Describes the regions of a captioned data set, ``max_samples`` of them spread evenly over it.

    Metrics: caption_token_accuracy (share of caption tokens, the turn's end included, that have the largest logit under
    teacher forcing), caption_ce (nats per token), exact_match (share of generated captions equal to the reference, up to
    case and white space), n_regions, n_bad. ``pictures`` is the number of pictures for the sheet; their score is the
    share of right tokens.
    """

    def __init__(
        self, *, data: Dataset, max_samples: int | None = None, caption_length: int = 64, batch_size: int = 8, pictures: int = 8
    ) -> None:
        for name, value in (("max_samples", max_samples), ("caption_length", caption_length), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}.")
        if pictures < 0:
            raise ValueError(f"pictures must not be negative, not {pictures}.")
        self.data, self.max_samples, self.caption_length = data, max_samples, caption_length
        self.batch_size, self.pictures = batch_size, pictures

    @torch.no_grad()
    def evaluate(self, model: Model, progress: Callable[[int, int], None]) -> Evaluation:
        """Raises UserError where the data set has no usable captioned region."""
        items = spread(len(self.data), self.max_samples)
        shown = {items[number] for number in spread(len(items), self.pictures)}
        right = tokens = matches = regions = 0
        ce, sheet, bad = 0.0, [], BadItems()
        for start in range(0, len(items), self.batch_size):
            chosen = items[start : start + self.batch_size]
            read = self._read(model, chosen, bad)
            if read:
                batch_regions = [region for _, region, _ in read]
                batch_right, batch_tokens, batch_ce, texts = self._describe(model, batch_regions, [sample for _, _, sample in read])
                for (item, region, _), row_right, row_tokens, text in zip(read, batch_right, batch_tokens, texts, strict=True):
                    matches += normalised(text) == normalised(region.caption or "")
                    if item in shown:
                        sheet.append(Picture(region.caption or "", region.image, region.mask, text=text, score=row_right / row_tokens))
                right, tokens, ce, regions = right + sum(batch_right), tokens + sum(batch_tokens), ce + batch_ce, regions + len(read)
            progress(min(start + self.batch_size, len(items)), len(items))
        if not regions:
            raise UserError(f"The evaluation data set gave no usable captioned region ({bad or 'it is empty'}): check its paths.")
        bad.report(len(items))
        metrics = {
            "caption_token_accuracy": right / tokens,
            "caption_ce": ce / tokens,
            "exact_match": matches / regions,
            "n_regions": float(regions),
            "n_bad": float(len(bad)),
        }
        return Evaluation(metrics, sheet)

    def _read(self, model: Model, items: list[int], bad: BadItems) -> list[tuple[int, Region, Any]]:
        """(item, region, prepared sample) of the usable items; the others go to ``bad``."""
        read = []
        for item in items:
            try:
                region = self.data[item]
                read.append((item, region, model.preparation(region, NEEDS)))
            except BadSample as error:
                bad.add(error)
        return read

    def _describe(self, model: Model, regions: list[Region], samples: list[Any]) -> tuple[list[int], list[int], float, list[str]]:
        """Right tokens and tokens of each region, the summed cross entropy, and the generated captions."""
        weight, bias = model.head()  # [V, D], [V]
        batch = model.preparation.collate(samples).to(weight.device)
        vision = model.encode(batch)
        tokens = model.tokenize([region.caption or "" for region in regions], self.caption_length)
        ids, mask = tokens.ids, tokens.mask  # [B, T]
        states = model.caption_states(vision, batch.view1, batch.cells, tokens)  # [B, T, D]
        logits = F.linear(states[mask].to(weight.dtype), weight, bias).float()  # [M, V], the M real tokens only
        ce = F.cross_entropy(logits, ids[mask], reduction="sum").item()
        hits = torch.zeros_like(mask)  # [B, T]
        hits[mask] = logits.argmax(-1) == ids[mask]
        texts = model.decode(model.generate(vision, batch.view1, batch.cells, self.caption_length))
        return hits.sum(1).tolist(), mask.sum(1).tolist(), ce, texts
