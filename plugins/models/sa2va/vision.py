"""Features of the pictures of a batch, computed once for all forwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from plugins.models.sa2va.backend import Grid


class Vision:
    """Features of N pictures up to the first layer that may be trained: computed on first use, and then kept."""

    def __init__(self, features: Callable[[], list[Any]], grids: Sequence[Grid], fpn: Callable[[list[int]], tuple[Tensor, ...]]) -> None:
        """``fpn`` gives the pyramids of the pictures that it is asked for."""
        self._features, self.grids, self._fpn = features, grids, fpn
        self._pyramids: dict[int, tuple[Tensor, ...]] = {}  # picture -> the levels of its pyramid, without the batch dimension

    @cached_property
    def features(self) -> list[Any]:
        """N, in the backend's own form, before the projector."""
        return self._features()

    def fpn(self, pictures: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """[n, C, R/4, R/4], [n, C, R/8, R/8], [n, C, R/16, R/16] of n pictures, before conv_s0 and conv_s1.

        Only pictures in which something is segmented are encoded: of loop 1's pairs, the second ones.
        """
        if new := [picture for picture in pictures if picture not in self._pyramids]:
            self._pyramids |= zip(new, zip(*self._fpn(new), strict=True), strict=True)
        fine, middle, coarse = (torch.stack(level) for level in zip(*(self._pyramids[picture] for picture in pictures), strict=True))
        return fine, middle, coarse
