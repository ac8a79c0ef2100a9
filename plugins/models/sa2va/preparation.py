"""Regions in the sizes that the model uses: the backend's view of a picture, SAM2's, the region's cells, and its small masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from core.contracts import BadSample, Region, RegionBatch, UserError
from plugins.models.sa2va.backend import Grid, Pictures
from plugins.models.sa2va.pixels import square


def grid_cells(mask: np.ndarray, grid: Grid) -> np.ndarray:
    """[H, W] bool -> [gh, gw] bool: nearest neighbour, as ``F.interpolate(mode="nearest")`` picks it."""
    height, width = grid
    rows = np.floor(np.arange(height) * np.float32(mask.shape[0] / height)).astype(np.int64)
    columns = np.floor(np.arange(width) * np.float32(mask.shape[1] / width)).astype(np.int64)
    return mask[rows[:, None], columns[None, :]]


def most_covered_cell(mask: np.ndarray, grid: Grid) -> np.ndarray:
    """[H, W] bool -> [gh, gw] bool with the one cell of which the mask covers most."""
    height, width = grid
    coverage = np.asarray(Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BOX))
    return (np.arange(height * width) == coverage.argmax()).reshape(height, width)


def small_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """[H, W] bool -> [size, size] bool: a pixel is set where at least half of its area is covered."""
    if mask.shape == (size, size):
        return mask
    coverage = Image.fromarray(mask.astype(np.uint8) * 255).resize((size, size), Image.Resampling.BOX)
    return np.asarray(coverage) >= 128


@dataclass(frozen=True)
class View:
    """One prepared picture."""

    tiles: np.ndarray  # [n, ...] uint8, as the backend lays it out
    grid: Grid
    sam: np.ndarray  # [3, R, R] uint8


@dataclass(frozen=True)
class Sample:
    """One prepared region; ``view2`` is None where the second view is the first."""

    id: str
    caption: str | None
    view1: View
    view2: View | None
    cells: np.ndarray  # [gh, gw] bool, of the first view
    mask1: np.ndarray  # [h, w] bool
    mask2: np.ndarray  # [h, w] bool


@dataclass(frozen=True)
class Sa2vaPreparation:
    """Region -> prepared sample -> batch. Holds sizes only, so it travels to the loader's workers."""

    pictures: Pictures
    sam_size: int  # R
    fast: bool = False

    def __call__(self, region: Region, needs: frozenset[str] = frozenset()) -> Sample:
        """Raises ``BadSample`` where picture and mask disagree, nothing of the mask is left, or something needed is not there.

        With "empty_mask" in ``needs`` a mask that is empty from the start is accepted, one that is lost at the model's size is not.
        """
        if "caption" in needs and not (region.caption and region.caption.strip()):
            raise BadSample("blank caption", region.id)
        second = region.image2 is not None
        mask2 = region.mask2 if region.mask2 is not None else region.mask
        for image, mask in ((region.image, region.mask), (region.image2 if second else region.image, mask2)):
            if image is None or image.shape[:2] != mask.shape:
                raise BadSample(
                    "mask and picture sizes differ", region.id, f"mask {mask.shape}, picture {None if image is None else image.shape}"
                )
        mask1 = small_mask(region.mask, self.sam_size // 4)
        small2 = mask1 if mask2 is region.mask else small_mask(mask2, self.sam_size // 4)
        for whole, small in ((region.mask, mask1), (mask2, small2)):
            if not small.any() and ("empty_mask" not in needs or whole.any()):
                raise BadSample("mask is empty at the model's size", region.id, f"{int(region.mask.sum())} pixels in the picture")
        try:
            view1 = self.view(region.image)
            view2 = self.view(region.image2) if region.image2 is not None else None
        except UserError as fault:
            raise BadSample("picture of a shape that the model refuses", region.id, str(fault)) from None
        cells = grid_cells(region.mask, view1.grid)
        if not cells.any() and region.mask.any():  # it fell between the sampled pixels: upstream would ask about no region at all
            cells = most_covered_cell(region.mask, view1.grid)
        return Sample(id=region.id, caption=region.caption, view1=view1, view2=view2, cells=cells, mask1=mask1, mask2=small2)

    def view(self, image: np.ndarray) -> View:
        """A picture [H, W, 3] uint8 for the language model and for SAM2. Raises ``UserError`` for a shape that the backend refuses."""
        tiles, grid = self.pictures.picture(image, self.fast)
        return View(tiles, grid, square(image, self.sam_size, self.fast))

    def asked(self, image: np.ndarray) -> View:
        """The same for a question: exactly what upstream's inference makes of it."""
        tiles, grid = self.pictures.asked(image)
        return View(tiles, grid, square(image, self.sam_size))

    def collate(self, samples: Sequence[Sample]) -> RegionBatch:
        """Stacks samples; equal pictures of one batch are held once."""
        table: dict[tuple[bytes, Grid], int] = {}
        views: list[View] = []

        def row(view: View) -> int:
            index = table.setdefault((view.sam.tobytes(), view.grid), len(views))
            if index == len(views):
                views.append(view)
            return index

        view1 = [row(sample.view1) for sample in samples]
        view2 = [first if sample.view2 is None else row(sample.view2) for sample, first in zip(samples, view1, strict=True)]
        return RegionBatch(
            ids=[sample.id for sample in samples],
            captions=[sample.caption for sample in samples],
            tiles=torch.from_numpy(np.concatenate([view.tiles for view in views])),
            tile_counts=[len(view.tiles) for view in views],
            grids=[view.grid for view in views],
            sam_pictures=torch.from_numpy(np.stack([view.sam for view in views])),
            view1=torch.tensor(view1),
            view2=torch.tensor(view2),
            cells=[torch.from_numpy(sample.cells) for sample in samples],
            mask1=torch.from_numpy(np.stack([sample.mask1 for sample in samples])),
            mask2=torch.from_numpy(np.stack([sample.mask2 for sample in samples])),
        )
