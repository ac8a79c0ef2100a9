"""Another look at each sample in every epoch: colours, blur, a crop around the object as second view, mirror images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from core.contracts import Dataset, Region, Share, StoredPicture, Usage, draw_from
from plugins.datasets._usage import usages
from plugins.datasets._wrapping import coco_pictures, picture_groups, stored_pictures

#: A picture whose caption holds one of these is not mirrored: left, leftmost, left-hand, right, ..., 左, 右.
SIDES = re.compile(r"\b(left|right)|左|右", re.IGNORECASE)
Range = tuple[float, float]


class Augment:
    """The samples of ``data``, changed at random when training draws them; ``[index]`` gives them as they are.

    The draws depend on seed, epoch, source and index alone. ``extra`` stays as it is: boxes in it do not move.
    """

    def __init__(
        self,
        *,
        data: Dataset,
        brightness: Range | None = None,
        contrast: Range | None = None,
        colour: Range | None = None,
        blur: Range | None = None,
        crop: Range | None = None,
        flip: Share = 0.0,
        colours: Literal["both", "second"] = "both",
    ) -> None:
        """``brightness``, ``contrast``, ``colour``: ranges of a factor, [0.8, 1.2]; 1 changes nothing. ``blur``: of a Gaussian's radius
        in pixels. ``crop``: of the sides of a cut out of the second view (of the first, where there is none), as shares of the
        picture's, [0.6, 1]; the object stays whole, and the cut is the second view. ``flip``: the probability of a mirror image,
        of both views, unless a caption names a side. ``colours``: whether brightness, contrast, colour and blur are drawn for both
        views, each its own, or for a second view only, which is then made where there is none.
        """
        ranges = {"brightness": brightness, "contrast": contrast, "colour": colour, "blur": blur, "crop": crop}
        for name, given in ranges.items():
            if given is not None and not 0 <= given[0] <= given[1] < float("inf"):
                raise ValueError(f"{name} must be two numbers from 0 on, the smaller one first, not {list(given)}.")
        if crop is not None and not 0 < crop[0] <= crop[1] <= 1:
            raise ValueError(f"crop must lie in 0..1, above 0, not {list(crop)}.")
        if not 0 <= flip <= 1:
            raise ValueError(f"flip must lie in 0..1, not {flip}.")
        if colours not in ("both", "second"):
            raise ValueError(f"colours must be both or second, not {colours}.")
        self.data, self.blur, self.crop, self.flip, self.colours = data, blur, crop, flip, colours
        self._factors = {"Brightness": brightness, "Contrast": contrast, "Color": colour}

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Region:
        return self.data[index]

    def draw(self, index: int, generator: np.random.Generator) -> Region:
        """The sample as this visit sees it."""
        region = draw_from(self.data, index, generator)
        image, mask = region.image, region.mask
        image2, mask2 = (image, mask) if region.image2 is None or region.mask2 is None else (region.image2, region.mask2)
        second = region.image2 is not None or self.crop is not None or self.colours == "second"
        if self.crop is not None:
            box = _box(mask2, self.crop, generator)
            image2, mask2 = image2[box], mask2[box]
        if self.flip and generator.random() < self.flip and not _names_a_side(region):
            image, mask, image2, mask2 = (array[:, ::-1] for array in (image, mask, image2, mask2))
        if self.colours == "both":
            image = self._coloured(image, generator)
        region = replace(region, image=np.ascontiguousarray(image), mask=np.ascontiguousarray(mask))
        if not second:
            return region
        return replace(region, image2=self._coloured(image2, generator), mask2=np.ascontiguousarray(mask2))

    def _coloured(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """[H, W, 3] uint8 in other colours."""
        picture = Image.fromarray(np.ascontiguousarray(image))
        for name, span in self._factors.items():
            if span is not None:
                picture = getattr(ImageEnhance, name)(picture).enhance(generator.uniform(*span))
        if self.blur is not None:
            picture = picture.filter(ImageFilter.GaussianBlur(generator.uniform(*self.blur)))
        return np.array(picture)

    def images(self) -> list[list[int]]:
        """Those of the data inside."""
        return picture_groups(self.data)

    def coco_images(self) -> set[int]:
        """Those of the data inside."""
        return coco_pictures(self.data)

    def picture_files(self) -> Iterator[StoredPicture]:
        """Those of the data inside."""
        return stored_pictures([self.data])

    def usage(self) -> list[Usage]:
        """That of the data inside."""
        return usages([self.data])


def _names_a_side(region: Region) -> bool:
    return any(SIDES.search(text) for text in (region.caption, *region.captions) if text)


def _box(mask: np.ndarray, span: Range, generator: np.random.Generator) -> tuple[slice, slice]:
    """A cut of [H, W] whose sides have the same drawn share of the picture's, or more where the object needs it."""
    share = generator.uniform(*span)
    slices = []
    for axis, size in enumerate(mask.shape):
        used = np.flatnonzero(mask.any(1 - axis))
        first, end = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
        length = max(end - first, round(share * size), 1)
        low, high = (max(0, end - length), min(first, size - length)) if len(used) else (0, size - length)
        start = int(generator.integers(low, high + 1))
        slices.append(slice(start, start + length))
    return slices[0], slices[1]
