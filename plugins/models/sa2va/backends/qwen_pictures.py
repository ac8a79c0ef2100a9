"""A picture cut into patches at its own resolution, as Qwen2.5-VL and Qwen3-VL take it, within upstream's bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from core.contracts import UserError
from plugins.models.sa2va.pixels import resized

LEAST, MOST = 512 * 28 * 28, 2048 * 28 * 28  # pixels of a picture: upstream's bounds in training, and for each picture it is asked about
TILE = 448 * 448  # pixels that ``max_tiles`` counts, InternVL's tile
#: Unit, least and most of the first resize of upstream's inference, by qwen_vl_utils, whose patch is 14 for each model.
_FIRST = (28, 4 * 28 * 28, 16384 * 28 * 28)
_RATIO = 200  # of the sides; both of upstream's resizers refuse more


@dataclass(frozen=True)
class NativePictures:
    """Obeys ``backend.Pictures``: patches [n, 3, P, P]; each block of m x m becomes a token, and a cell of the region grid."""

    patch: int  # P
    merge: int  # m
    least: int  # pixels
    most: int

    def picture(self, image: np.ndarray, fast: bool = False) -> tuple[np.ndarray, tuple[int, int]]:
        """Upstream's training resizes once, with torch's kernel, which is the fast one. Raises ``UserError`` for one that is too narrow."""
        height, width = sides(image.shape[0], image.shape[1], self.patch * self.merge, self.least, self.most)
        whole = resized(image, width, height, fast=True)
        grid = (height // (self.patch * self.merge), width // (self.patch * self.merge))
        return patches_of(whole, self.patch, self.merge), grid

    def asked(self, image: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        """Upstream's inference resizes twice, first to whole multiples of 28 pixels with PIL's kernel."""
        height, width = sides(image.shape[0], image.shape[1], *_FIRST)
        return self.picture(resized(image, width, height))

    def frame(self, image: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        """Upstream's inference gives a frame the bounds of a picture."""
        return self.asked(image)


def sides(height: int, width: int, unit: int, least: int, most: int) -> tuple[int, int]:
    """Height and width in multiples of ``unit`` with at least and at most so many pixels, the aspect kept as far as that goes."""
    if max(height, width) > _RATIO * min(height, width):
        raise UserError(f"a picture of {width} x {height} pixels is too narrow: Qwen-VL takes sides of at most 1 : {_RATIO}; crop it")
    high, wide = max(unit, round(height / unit) * unit), max(unit, round(width / unit) * unit)
    if high * wide > most:
        shrink = math.sqrt(height * width / most)
        return max(unit, math.floor(height / shrink / unit) * unit), max(unit, math.floor(width / shrink / unit) * unit)
    if high * wide < least:
        grow = math.sqrt(least / (height * width))
        return math.ceil(height * grow / unit) * unit, math.ceil(width * grow / unit) * unit
    return high, wide


def patches_of(image: np.ndarray, patch: int, merge: int) -> np.ndarray:
    """[H, W, 3] uint8 -> [n, 3, P, P] uint8: blocks of merge x merge patches row by row, and the patches of a block row by row."""
    rows, columns = image.shape[0] // (patch * merge), image.shape[1] // (patch * merge)
    parts = image.reshape(rows, merge, patch, columns, merge, patch, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    return np.ascontiguousarray(parts.reshape(-1, 3, patch, patch))
