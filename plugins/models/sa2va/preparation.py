"""Pictures and masks in the model's own sizes: tiles for the language model, one picture for SAM2, the prompt grid.

Follows upstream's ``dynamic_preprocess`` and ``DirectResize``: PIL's default (bicubic) filter, aspect not kept, RGB.
Pictures stay uint8 until they reach the device; ``normalize`` gives upstream's float32 tensor exactly. With ``fast`` they are
resized by torch's vectorised kernel for the same filter: quicker (``docs/data.md``); some values are 1 or 2 of 255 off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from core.contracts import BadSample, Region, RegionBatch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, for both encoders
MIN_TILES, MAX_TILES = 1, 12  # upstream hard-codes them for inference


def tile_grid(width: int, height: int, tile: int, most: int = MAX_TILES) -> tuple[int, int]:
    """(columns, rows) of the grid whose aspect is nearest to the picture's.

    On an exact tie the grid seen later wins only if the picture has more than half its pixels.
    """
    grids = sorted(
        {(i, j) for n in range(MIN_TILES, most + 1) for i in range(1, n + 1) for j in range(1, n + 1) if MIN_TILES <= i * j <= most},
        key=lambda grid: grid[0] * grid[1],
    )
    best, best_difference = (1, 1), float("inf")
    for i, j in grids:
        difference = abs(width / height - i / j)
        if difference < best_difference:
            best, best_difference = (i, j), difference
        elif difference == best_difference and width * height > 0.5 * tile * tile * i * j:
            best = (i, j)
    return best


def resized(image: np.ndarray, width: int, height: int, fast: bool = False) -> np.ndarray:
    """[H, W, 3] uint8 -> [height, width, 3] uint8."""
    if not fast:
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)[None]  # [1, 3, H, W], channels last
    return F.interpolate(pixels, (height, width), mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()


def tiles_of(image: np.ndarray, tile: int, most: int = MAX_TILES, fast: bool = False) -> np.ndarray:
    """[H, W, 3] uint8 -> [n, 3, tile, tile] uint8: row by row, and a thumbnail last if there is more than one."""
    columns, rows = tile_grid(image.shape[1], image.shape[0], tile, most)
    whole = resized(image, tile * columns, tile * rows, fast)
    parts = [whole[j * tile : (j + 1) * tile, i * tile : (i + 1) * tile] for j in range(rows) for i in range(columns)]
    if len(parts) > 1:
        parts.append(resized(image, tile, tile, fast))
    return np.ascontiguousarray(np.stack(parts).transpose(0, 3, 1, 2))


def one_tile(image: np.ndarray, tile: int) -> np.ndarray:
    """[H, W, 3] uint8 -> [3, tile, tile] uint8, the whole picture: a video's frame, or a thumbnail."""
    return sam_picture(image, tile)


def sam_picture(image: np.ndarray, size: int, fast: bool = False) -> np.ndarray:
    """[H, W, 3] uint8 -> [3, size, size] uint8."""
    return np.ascontiguousarray(resized(image, size, size, fast).transpose(2, 0, 1))


def normalize(pictures: Tensor, dtype: torch.dtype, constants: torch.dtype = torch.float32) -> Tensor:
    """[n, 3, S, S] uint8 -> the same in ``dtype``, computed in float32 with mean and std rounded to ``constants``."""
    mean = torch.tensor(MEAN, device=pictures.device).to(constants).float()[:, None, None]
    std = torch.tensor(STD, device=pictures.device).to(constants).float()[:, None, None]
    return ((pictures.float() / 255 - mean) / std).to(dtype)


def grid_cells(mask: np.ndarray, grid: int) -> np.ndarray:
    """[H, W] bool -> [G, G] bool: nearest neighbour, as ``F.interpolate(mode="nearest")`` picks it."""
    rows = np.floor(np.arange(grid) * np.float32(mask.shape[0] / grid)).astype(np.int64)
    columns = np.floor(np.arange(grid) * np.float32(mask.shape[1] / grid)).astype(np.int64)
    return mask[rows[:, None], columns[None, :]]


def most_covered_cell(mask: np.ndarray, grid: int) -> np.ndarray:
    """[H, W] bool -> [G, G] bool with the one cell of which the mask covers most."""
    coverage = np.asarray(Image.fromarray(mask.astype(np.float32)).resize((grid, grid), Image.Resampling.BOX))
    return (np.arange(grid * grid) == coverage.argmax()).reshape(grid, grid)


def small_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """[H, W] bool -> [size, size] bool: a pixel is set where at least half of its area is covered."""
    if mask.shape == (size, size):
        return mask
    coverage = Image.fromarray(mask.astype(np.uint8) * 255).resize((size, size), Image.Resampling.BOX)
    return np.asarray(coverage) >= 128


@dataclass(frozen=True)
class Sample:
    """One prepared region; ``tiles2`` and ``sam2`` are None where the second view is the first."""

    id: str
    caption: str | None
    tiles: np.ndarray  # [n, 3, S, S] uint8
    sam: np.ndarray  # [3, R, R] uint8
    tiles2: np.ndarray | None
    sam2: np.ndarray | None
    cells: np.ndarray  # [G, G] bool
    mask1: np.ndarray  # [h, w] bool
    mask2: np.ndarray  # [h, w] bool


@dataclass(frozen=True)
class Sa2vaPreparation:
    """Region -> prepared sample -> batch. Holds sizes only, so it travels to the loader's workers."""

    tile: int
    sam_size: int
    grid: int
    max_tiles: int
    fast: bool = False

    def __call__(self, region: Region, needs: frozenset[str] = frozenset()) -> Sample:
        """Raises ``BadSample`` where picture and mask disagree, nothing of the mask is left, or something needed is not there."""
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
        if not mask1.any() or not small2.any():
            raise BadSample("mask is empty at the model's size", region.id, f"{int(region.mask.sum())} pixels in the picture")
        cells = grid_cells(region.mask, self.grid)
        if not cells.any():  # it fell between the sampled pixels: upstream would ask about no region at all
            cells = most_covered_cell(region.mask, self.grid)
        tiles, sam = self._views(region.image)
        tiles2, sam2 = self._views(region.image2) if region.image2 is not None else (None, None)
        return Sample(
            id=region.id, caption=region.caption, tiles=tiles, sam=sam, tiles2=tiles2, sam2=sam2, cells=cells, mask1=mask1, mask2=small2
        )

    def _views(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[n, 3, S, S] and [3, R, R] uint8: for the language model and for SAM2."""
        return tiles_of(image, self.tile, self.max_tiles, self.fast), sam_picture(image, self.sam_size, self.fast)

    def collate(self, samples: Sequence[Sample]) -> RegionBatch:
        """Stacks samples; equal pictures of one batch are held once."""
        table: dict[bytes, int] = {}
        tiles: list[np.ndarray] = []
        sam: list[np.ndarray] = []

        def row(tile: np.ndarray, picture: np.ndarray) -> int:
            index = table.setdefault(picture.tobytes(), len(sam))
            if index == len(sam):
                tiles.append(tile)
                sam.append(picture)
            return index

        view1 = [row(sample.tiles, sample.sam) for sample in samples]
        view2 = [
            row(sample.tiles2, sample.sam2) if sample.tiles2 is not None and sample.sam2 is not None else first
            for sample, first in zip(samples, view1, strict=True)
        ]
        return RegionBatch(
            ids=[sample.id for sample in samples],
            captions=[sample.caption for sample in samples],
            tiles=torch.from_numpy(np.concatenate(tiles)),
            tile_counts=[len(tile) for tile in tiles],
            sam_pictures=torch.from_numpy(np.stack(sam)),
            view1=torch.tensor(view1),
            view2=torch.tensor(view2),
            cells=torch.from_numpy(np.stack([sample.cells for sample in samples])),
            mask1=torch.from_numpy(np.stack([sample.mask1 for sample in samples])),
            mask2=torch.from_numpy(np.stack([sample.mask2 for sample in samples])),
        )
