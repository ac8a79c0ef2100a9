"""A predicted mask as the region that a description is asked about: for loops and evaluators that go from a mask on to a caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def cell_means(logits: Tensor, grids: Sequence[tuple[int, int]]) -> list[Tensor]:
    """[B, h, w] mask logits, B grids -> B of [gh, gw] float32: the mask's mean probability over each cell of its picture's grid.

    The predicted region is where it exceeds one half; it may have no cell.
    """
    from torch.nn import functional as F  # late: importing the contracts does not load torch

    return [F.adaptive_avg_pool2d(mask[None], grid)[0] for mask, grid in zip(logits.sigmoid(), grids, strict=True)]
