"""How well a model closes the two loops: mask -> caption -> mask, and caption -> mask -> caption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from core.contracts import BadSample, Count, Dataset, Item, Model, Picture, Region, Tokens, cell_means
from plugins.evaluators import mask_metrics
from plugins.evaluators._forced import forced
from plugins.evaluators._rle import decoded, encoded
from plugins.evaluators.caption_metrics import overlap
from plugins.evaluators.items import at_least_one, bad_item, by_mask, described, normalised, pictures


@dataclass(frozen=True)
class _Asked:
    """One region of a picture."""

    index: int
    region: Region
    prepared: Any  # without the second view
    given: str | None  # its caption in the data set, if it has one


class Closure:
    """What the loops train, measured from the model's own words and without training; for any data set of regions.

    mask -> caption -> mask: the model describes each region, then it is asked for what it wrote, as for a referring phrase, in the
    second view where the data set has one. The mask is compared with the region's at the picture's own size; no mask and an empty
    caption count as an empty mask.
    caption -> mask -> caption, where the data set has captions: the model segments a given caption, and describes the grid cells whose
    mean probability exceeds one half, as ``caption_mask_caption`` does. Of several captions of one mask the first is given.

    ``max_samples`` pictures are taken, spread evenly over the set, and of each the first ``max_texts_per_image`` regions.
    ``caption_length``: tokens of a caption. ``max_new_tokens``: of the answer that gives a mask.

    Metrics: mask_cIoU, mask_gIoU, mask_precision@0.5/0.7/0.9, mask_no_seg_share as ``refcoco`` has them; mask_empty_share, of own captions
    for which not one pixel is found; distinct_captions, share of the regions whose caption no other measured region of their picture
    gets, up to case and white space, of the n_beside regions that are not alone in their picture;
    caption_gIoU, mean IoU of the mask between the captions, at the model's size; caption_empty_masks, share of those without a cell;
    caption_exact_match; caption_word_overlap (F1 of the words; each counts as often as it is said); caption_token_accuracy, share of the
    given caption's tokens that have the largest logit under teacher forcing; n_regions, n_described, n_pictures.
    """

    lowest_is_best = frozenset({"mask_no_seg_share", "mask_empty_share", "caption_empty_masks"})

    def __init__(
        self,
        *,
        data: Dataset,
        max_samples: Count | None = None,
        max_texts_per_image: Count | None = None,
        max_new_tokens: Count = 64,
        caption_length: Count = 64,
        batch_size: Count = 8,
    ) -> None:
        at_least_one(max_samples=max_samples, max_texts_per_image=max_texts_per_image, max_new_tokens=max_new_tokens)
        at_least_one(caption_length=caption_length, batch_size=batch_size)
        self.data, self.max_texts, self.batch_size = data, max_texts_per_image, batch_size
        self.max_new_tokens, self.caption_length = max_new_tokens, caption_length
        self._units = pictures(data, max_samples)

    def __len__(self) -> int:
        return len(self._units)

    def measure(self, model: Model, unit: int) -> list[Item]:
        """An item keeps the texts, and the mask found for the model's own as COCO's compressed RLE."""
        regions, bad = described(self.data, self._units[unit], needed=False)
        asked: list[_Asked] = []
        for first, *_ in by_mask(regions)[: self.max_texts]:
            region = regions[first]
            given = next((text for text in (region.caption, *region.captions) if text and text.strip()), None)
            try:
                prepared = model.preparation(replace(region, image2=None, mask2=None, caption=given, captions=()))
            except BadSample as error:
                bad.append(bad_item(error))
            else:
                asked.append(_Asked(first, region, prepared, given))
        items: list[Item] = []
        for start in range(0, len(asked), self.batch_size):
            items += self._close(model, asked[start : start + self.batch_size])
        said = Counter(normalised(item["text"]) for item in items)
        for number, item in enumerate(items):
            text = normalised(item["text"])
            item |= {"new": number == 0, "beside": len(items) > 1, "distinct": len(items) > 1 and bool(text) and said[text] == 1}
        return bad + items

    def _close(self, model: Model, asked: list[_Asked]) -> list[Item]:
        device = model.head()[0].device
        batch = model.preparation.collate([one.prepared for one in asked]).to(device)
        vision = model.encode(batch)
        texts = model.decode(model.generate(vision, batch.view1, batch.cells, self.caption_length))
        items = [
            {"id": one.region.id, "index": one.index, "text": text} | found
            for one, text, found in zip(asked, texts, self._segmented(model, asked, texts), strict=True)
        ]
        rows = [row for row, one in enumerate(asked) if one.given is not None]
        if rows:
            again = self._described_again(model, vision, batch, rows, [asked[row].given or "" for row in rows])
            for row, found in zip(rows, again, strict=True):
                items[row] |= found
        return items

    def _segmented(self, model: Model, asked: list[_Asked], texts: Sequence[str]) -> list[Item]:
        """mask -> caption -> mask: what is found for each region's own text. Texts about one picture are asked together."""
        views: dict[bytes, list[int]] = {}  # the second pictures' pixels, or nothing of the first one -> rows
        for row, one in enumerate(asked):
            if texts[row].strip():
                views.setdefault(b"" if one.region.image2 is None else one.region.image2.tobytes(), []).append(row)
        masks: list[np.ndarray | None] = [None] * len(asked)
        for rows in views.values():
            region = asked[rows[0]].region
            image = region.image if region.image2 is None else region.image2  # [H, W, 3]
            for row, answer in zip(rows, model.predict(image, [texts[row] for row in rows], self.max_new_tokens), strict=True):
                masks[row] = answer.mask  # [H, W]
        found = []
        for one, mask in zip(asked, masks, strict=True):
            item = mask_metrics.compared(mask, one.region.mask if one.region.mask2 is None else one.region.mask2)
            nothing = mask is None or not mask.any()
            found.append(item | {"nothing": nothing, "score": item["iou"], "mask": encoded(mask)})
        return found

    def _described_again(self, model: Model, vision: Any, batch: Any, rows: list[int], given: list[str]) -> list[Item]:
        """caption -> mask -> caption, of the ``rows`` [b] that have a caption."""
        view, target = batch.view1[rows], batch.mask1[rows]  # [b], [b, h, w]
        phrase: Tokens = model.phrases(given, self.caption_length)  # [b, T]
        wording = model.wording([batch.ids[row] for row in rows], None)
        logits = model.segment(vision, view, model.embed(phrase.ids), phrase.mask, wording).mask_logits  # [b, h, w]
        means = cell_means(logits, [batch.grids[picture] for picture in view.tolist()])
        cells = [mean > 0.5 for mean in means]  # b of [gh, gw]
        again = model.decode(model.generate(vision, view, cells, self.caption_length))
        counted = forced(model, vision, view, cells, given, self.caption_length)
        items = []
        for row, (right, tokens, _) in enumerate(counted):
            iou = mask_metrics.compared((logits[row] > 0).cpu().numpy(), target[row].cpu().numpy())["iou"]
            match = normalised(again[row]) == normalised(given[row])
            texts = {"given": given[row], "again": again[row], "match": match, "overlap": overlap(again[row], given[row])}
            items.append(texts | {"right": right, "tokens": tokens, "found_iou": iou, "no_cell": not bool(cells[row].any())})
        return items

    def tally(self, items: Sequence[Item]) -> Mapping[str, np.ndarray]:
        sums = {f"mask {name}": values for name, values in mask_metrics.tally(items).items()}
        for name in ("new", "beside", "distinct", "nothing"):
            sums[name] = np.array([item[name] for item in items], dtype=np.float64)
        for name in ("match", "overlap", "right", "tokens", "found_iou", "no_cell"):
            sums[name] = np.array([item.get(name, 0) for item in items], dtype=np.float64)
        return sums | {"described": np.array(["given" in item for item in items], dtype=np.float64)}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        masks = mask_metrics.metrics({name.removeprefix("mask "): values for name, values in sums.items() if name.startswith("mask ")})
        n, beside, described = masks.pop("n_expressions"), sums["beside"], sums["described"]
        found = {f"mask_{name}": values for name, values in masks.items()} | {"mask_empty_share": sums["nothing"] / n}
        if beside.any():  # otherwise there is nothing that it could be told from
            found["distinct_captions"] = sums["distinct"] / beside
        if described.any():
            found |= {
                "caption_gIoU": sums["found_iou"] / described,
                "caption_empty_masks": sums["no_cell"] / described,
                "caption_exact_match": sums["match"] / described,
                "caption_word_overlap": sums["overlap"] / described,
                "caption_token_accuracy": sums["right"] / sums["tokens"],
            }
        return found | {"n_regions": n, "n_beside": beside, "n_described": described, "n_pictures": sums["new"]}

    def picture(self, item: Item) -> Picture:
        """The picture that was segmented, under the caption that was asked for. Reads the sample again."""
        region = self.data[item["index"]]
        image = region.image if region.image2 is None else region.image2
        truth = region.mask if region.mask2 is None else region.mask2
        text = f"{item['given']} -> {item['again'] or '(nothing)'}" if "given" in item else ""
        return Picture(item["text"] or "(nothing)", image, truth, decoded(item["mask"]), text, item["score"])
