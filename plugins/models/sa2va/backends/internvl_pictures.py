"""A picture cut into tiles as InternVL takes it: upstream's ``dynamic_preprocess``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from plugins.models.sa2va.pixels import resized, square

MIN_TILES, MAX_TILES = 1, 12  # upstream hard-codes them for inference


@dataclass(frozen=True)
class TiledPictures:
    """Obeys ``backend.Pictures``: tiles [n, 3, S, S]; the region grid is that of one tile, whatever the picture's sides."""

    tile: int  # S
    grid: int  # G
    most: int  # tiles, without the thumbnail

    def picture(self, image: np.ndarray, fast: bool = False) -> tuple[np.ndarray, tuple[int, int]]:
        return tiles_of(image, self.tile, self.most, fast), (self.grid, self.grid)

    def asked(self, image: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        return self.picture(image)

    def frame(self, image: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        """The whole frame as one tile."""
        return square(image, self.tile)[None], (self.grid, self.grid)


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


def tiles_of(image: np.ndarray, tile: int, most: int = MAX_TILES, fast: bool = False) -> np.ndarray:
    """[H, W, 3] uint8 -> [n, 3, tile, tile] uint8: row by row, and a thumbnail last if there is more than one."""
    columns, rows = tile_grid(image.shape[1], image.shape[0], tile, most)
    whole = resized(image, tile * columns, tile * rows, fast)
    parts = [whole[j * tile : (j + 1) * tile, i * tile : (i + 1) * tile] for j in range(rows) for i in range(columns)]
    if len(parts) > 1:
        parts.append(resized(image, tile, tile, fast))
    return np.ascontiguousarray(np.stack(parts).transpose(0, 3, 1, 2))
