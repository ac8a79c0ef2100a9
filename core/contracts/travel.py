"""What travels from the data sets through the model and the loops to the gradient op. Shape letters: ``core.contracts``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Region:
    """One object of one picture, as a data set yields it; knows no model."""

    id: str  # stable over runs and machines, unique within the data set
    image: np.ndarray  # [H, W, 3] uint8, RGB
    mask: np.ndarray  # [H, W] bool; empty where a phrase has no target, for loops that take that (``TakesEmptyMasks``)
    caption: str | None = None  # a description or a referring phrase
    image2: np.ndarray | None = None  # [H2, W2, 3] uint8: a second view of the same object; None: the first again
    mask2: np.ndarray | None = None  # [H2, W2] bool
    captions: Sequence[str] = ()  # several instead of ``caption``: the engine draws one of them at each visit
    category: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)  # what else a loop wants: goes as it is to ``RegionBatch.extra``; picklable


@dataclass
class RegionBatch:
    """B prepared regions. Every picture is held once: ``view1`` and ``view2`` point into the table of N pictures."""

    ids: list[str]  # B
    captions: list[str | None]  # B
    tiles: Tensor  # [sum(tile_counts), ...] uint8, the language model's view of the pictures, as the model lays it out
    tile_counts: list[int]  # N
    grids: list[tuple[int, int]]  # N, (gh, gw) of each picture
    sam_pictures: Tensor  # [N, 3, R, R] uint8, the mask decoder's view
    view1: Tensor  # [B] int64, row of the picture tables
    view2: Tensor  # [B] int64; equal to view1 where there is no second view
    cells: list[Tensor]  # B of [gh, gw] bool, grid cells of the first mask, in the grid of its own picture
    mask1: Tensor  # [B, h, w] bool
    mask2: Tensor  # [B, h, w] bool
    categories: list[str | None] = field(default_factory=list)  # B, as the data sets gave them; the engine fills it in
    extra: list[Mapping[str, Any]] = field(default_factory=list)  # B, likewise; values that are tensors go to the device
    for_teacher: RegionBatch | None = None  # the same regions as a teacher with a preparation of its own sees them

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> RegionBatch:
        """The same batch with its tensors on ``device``, those among the values of ``extra`` too."""
        import torch

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return replace(
            self,
            tiles=moved(self.tiles),
            sam_pictures=moved(self.sam_pictures),
            view1=moved(self.view1),
            view2=moved(self.view2),
            cells=[moved(cells) for cells in self.cells],
            mask1=moved(self.mask1),
            mask2=moved(self.mask2),
            extra=[{key: moved(v) if isinstance(v, torch.Tensor) else v for key, v in one.items()} for one in self.extra],
            for_teacher=None if self.for_teacher is None else self.for_teacher.to(device),
        )

    def __getstate__(self) -> dict[str, Any]:
        """All cells as one tensor: on the way from a loader's worker each tensor takes a file handle."""
        import torch

        flat = torch.cat([cells.flatten() for cells in self.cells])  # [sum of gh * gw]
        return vars(self) | {"cells": (flat, [tuple(cells.shape) for cells in self.cells])}

    def __setstate__(self, state: dict[str, Any]) -> None:
        flat, grids = state["cells"]
        parts = flat.split([height * width for height, width in grids])
        vars(self).update(state, cells=[part.view(grid) for part, grid in zip(parts, grids, strict=True)])


@dataclass
class Tokens:
    """Right-padded token rows."""

    ids: Tensor  # [B, T] int64
    mask: Tensor  # [B, T] bool, True at real tokens; True comes before False in every row


@dataclass
class Wording:
    """How the segmentation request of each region is put: the text around the phrase, and the fixed answer."""

    before: list[str]  # B, e.g. "Please segment "
    after: list[str]  # B, e.g. " in this image."
    answers: Tokens  # [B, A], "Sure, it is [SEG]." and the turn's end


@dataclass
class Segmentation:
    """What one teacher-forced segmentation forward gives."""

    mask_logits: Tensor  # [B, h, w] float32, low resolution
    answer_states: Tensor  # [B, A, D], the state that predicts each answer token
    seg_embedding: Tensor  # [B, D2] float32, the [SEG] state after text_hidden_fcs: what the mask decoder was given


@dataclass(frozen=True)
class Prediction:
    """One generated answer to a referring phrase."""

    text: str
    mask: np.ndarray | None  # [H, W] bool at the picture's own size; None: no [SEG] was generated


@dataclass
class LossTerm:
    """A sum over ``count`` items (regions or tokens). The engine divides by the count over the whole update."""

    total: Tensor  # scalar, with gradient
    count: int
    weight: float = 1.0


@dataclass
class LossTerms:
    """What a loop returns for one micro-batch. ``metrics`` are (sum, count) pairs, averaged for the log."""

    terms: dict[str, LossTerm]
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Gram:
    """Inner products of the loops' gradients, already averaged over ranks and accumulated."""

    loops: tuple[str, ...]  # n names
    groups: tuple[str, ...]  # P names
    values: Tensor  # [P, n, n] float64, <g_i, g_j> within each parameter group
    scales: Tensor  # [n] float64, the loops' weights in the recipe (beta for loop 2)
    losses: Tensor | None = None  # [n] float64, the loops' losses in this update, over all ranks
