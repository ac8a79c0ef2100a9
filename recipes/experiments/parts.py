"""Controls of the experiments beside this file: the same text without its gradient, and pseudo labels as they are known elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from core.contracts import Count, Dataset, LossTerms, Model, Noise, Region, RegionBatch, Sampler, Teacher, teacher_captions
from plugins.datasets._wrapping import picture_groups
from plugins.loops._segmentation import SegmentationLosses, answer_term, iou_metric, mask_term, positive, segmentation_counts

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Detached:
    """The text of another sampler, without the gradient that runs through it: the words are pseudo labels and nothing more."""

    def __init__(self, *, sampler: Sampler) -> None:
        self.sampler = sampler

    def __call__(
        self, states: Tensor, head: tuple[Tensor, Tensor | None], embedding: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """As ``core.contracts.Sampler``, but for the gradient."""
        text, seen = self.sampler(states, head, embedding, generators)  # [B, T, D]
        return text.detach(), seen


class HardCaptions:
    """The teacher's own words, as they are, are the phrase for view 2: nothing masked, nothing drawn, no caption of the student.

    ``phrase``: this one for every region instead of the teacher's words.
    """

    needs = frozenset({"teacher"})
    forwards, views = ("segment",), 2

    def __init__(self, *, losses: SegmentationLosses, caption_length: Count = 256, phrase: str = "") -> None:
        positive(caption_length=caption_length)
        self.losses, self.caption_length, self.phrase = losses, caption_length, phrase

    def counts(self, model: Model, batch: RegionBatch, noise: Noise) -> dict[str, int]:
        return segmentation_counts(model, batch, noise)

    def __call__(self, model: Model, teacher: Teacher | None, batch: RegionBatch, noise: Noise) -> LossTerms:
        assert teacher is not None  # the recipe check sees to it: needs names it
        vision = model.encode(batch)
        if self.phrase:
            texts = [self.phrase] * len(batch)
        else:
            texts = model.decode(teacher_captions(teacher, model, vision, batch, self.caption_length))
        phrase = model.phrases(texts, self.caption_length)  # [B, T]
        wording = model.wording(batch.ids, noise)
        result = model.segment(vision, batch.view2, model.embed(phrase.ids), phrase.mask, wording)
        terms = {
            "mask": mask_term(result, batch.mask2, batch, noise, self.losses["mask"]),
            "answer": answer_term(result, wording, model, self.losses["answer"]),
        }
        return LossTerms(terms, {"iou": iou_metric(result.mask_logits, batch.mask2)})


class _Changed:
    """The samples of another data set, each changed by ``change``."""

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Region:
        return self.change(self.data[index])

    def images(self) -> list[list[int]]:
        return picture_groups(self.data)

    def change(self, region: Region) -> Region:
        raise NotImplementedError


class WrongMasks(_Changed):
    """Masks that are moved away from their objects: is the description still that of the object?"""

    def __init__(self, *, data: Dataset, shift: float = 0.06) -> None:
        """``shift``: to the right and down, in parts of the picture's sides. A mask that leaves the picture stays as it is."""
        super().__init__(data)
        self.shift = shift

    def change(self, region: Region) -> Region:
        down, right = (round(self.shift * side) for side in region.mask.shape)
        moved = np.zeros_like(region.mask)  # [H, W]
        moved[down:, right:] = region.mask[: len(region.mask) - down, : region.mask.shape[1] - right]
        return replace(region, mask=moved if moved.any() else region.mask)


class OtherStyle(_Changed):
    """Captions with their words in the opposite order: the same content, and another next word at every place."""

    def __init__(self, *, data: Dataset) -> None:
        super().__init__(data)

    def change(self, region: Region) -> Region:
        turned = [" ".join(reversed(text.split())) for text in region.captions]
        return replace(region, caption=None if region.caption is None else " ".join(reversed(region.caption.split())), captions=turned)
