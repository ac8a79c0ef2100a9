"""One's own data as a COCO file: ``images`` and ``annotations`` with polygons or run-length masks.

An annotation may carry texts: ``caption`` (one), ``captions`` or ``phrases`` (a list; each gives a region of its own).
The file is walked once for the places of its annotations (``_coco``); afterwards only the wanted one is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from core.contracts import BadSample, Count, Region, StoredPicture, Usage, UserError
from core.pixels import MAX_PIXELS
from plugins.datasets import _coco, _json, _recognize, _rle
from plugins.datasets._cache import cached, stamp_of
from plugins.datasets._index import existing_file, existing_folder, spread
from plugins.datasets._names import named_file
from plugins.datasets._pictures import Pictures
from plugins.datasets._text import sound
from plugins.datasets._usage import usage_of_index


class CocoRegions:
    """One region for each annotation and text; ids are ``{annotation id}/{number of the text}``."""

    recognizes = staticmethod(_recognize.coco)

    def __init__(
        self,
        *,
        annotations: Path,
        images: Path,
        text: Literal["annotation", "category", "none"] = "annotation",
        crowds: bool = False,
        empty_masks: bool = False,
        areas: Literal["check", "ignore"] = "check",
        orientation: Literal["shown", "stored"] = "shown",
        max_samples: Count | None = None,
        max_pixels: Count = MAX_PIXELS,
        draft: Count | None = None,
    ) -> None:
        """``text``: the annotation's own texts (None where it has none), its category's name, or nothing. ``crowds``: whether
        groups marked ``iscrowd`` count as regions. ``empty_masks``: takes annotations whose ``segmentation`` is an empty list, phrases
        without a target, for a loop that takes them. ``areas``: whether a run-length mask that has neither the ``area`` nor the ``bbox``
        of its annotation is a bad sample. ``orientation``: whether masks were drawn on the pictures as they are shown, or on the pixels
        as stored, without EXIF's orientation. ``max_pixels`` of a picture that is decoded. ``draft``: see ``docs/data.md``. Raises
        ``UserError`` for a file that is no COCO file, in which an id stands twice, or which has no mask."""
        self.pictures = Pictures("coco_regions", draft=draft, orientation=orientation, max_pixels=max_pixels)
        self.empty_masks = empty_masks
        if text not in ("annotation", "category", "none"):
            raise ValueError(f"text must be annotation, category or none, not {text}.")
        self._file = existing_file(Path(annotations).expanduser(), "coco_regions")
        self._folder, self.text = existing_folder(images, "coco_regions", "the pictures of the COCO file"), text
        if areas not in ("check", "ignore"):
            raise ValueError(f"areas must be check or ignore, not {areas}.")
        self._areas = areas == "check"
        options = {"file": self._file.resolve(), "text": text, "crowds": crowds, "empty_masks": empty_masks, "index": 3}
        build = partial(_coco.build, self._file, "coco_regions", text, crowds, empty_masks)
        self._index = cached("coco_regions", options, stamp_of([self._file]), lambda _: build())
        if not len(self._index["begin"]):
            told = usage_of_index(self._index)
            none = {one.reason for one in told.left_out} == {"no mask"}
            raise UserError(f"coco_regions: {self._file} has {'no masks' if none else 'no annotation to use'}: {told}.")
        self._chosen = spread(len(self._index["begin"]), max_samples)

    def its_files(self) -> list[Path]:
        return [self._file]

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Region:
        row, arrays = int(self._chosen[index]), self._index
        number = int(arrays["number"][row])
        begin, length = int(arrays["begin"][row]), int(arrays["length"][row])
        annotation = _json.read_object(self._file, begin, length, f"annotation at byte {begin}")
        name = annotation.get("id")
        sample = f"{f'byte {begin}' if name is None else name}/{max(number, 0)}"
        caption = self._caption(annotation, number, row)
        if caption is not None and not sound(caption, sample).strip():
            raise BadSample("blank caption", sample)
        picture = int(arrays["picture"][row])
        file = named_file(self._folder, arrays.text("file", picture), sample, unique=bool(arrays["unique"][0]))
        image, mask = self._view(file, annotation, picture, sample)
        caption = caption.strip() if caption else None
        return Region(id=sample, image=image, mask=mask, caption=caption, category=self._category(row))

    def _view(self, file: Path, annotation: dict[str, Any], picture: int, sample: str) -> tuple[np.ndarray, np.ndarray]:
        """[H, W, 3] uint8 and [H, W] bool. The picture's own size counts where the file has none."""
        height, width = (int(side) for side in self._index["size"][picture])
        unknown = min(height, width) < 1
        if unknown:
            image, factor = self.pictures.picture(file, sample), 1  # [H, W, 3]
            height, width = image.shape[:2]
        empty = self.empty_masks and annotation.get("segmentation") == []
        mask = None if empty else _rle.annotated(annotation, height, width, sample, self._areas, limit=self.pictures.limit)  # [H, W]
        if not unknown:
            image, factor = self.pictures.view(file, sample, (height, width))  # [H, W, 3]
        return image, np.zeros(image.shape[:2], bool) if mask is None else _rle.reduced(mask, factor, sample)

    def _category(self, row: int) -> str | None:
        """The name that ``categories`` gives, if it gives one."""
        place = int(self._index["class"][row])
        return (self._index.text("category", place).strip() or None) if place >= 0 else None

    def _caption(self, annotation: dict[str, Any], number: int, row: int) -> str | None:
        if self.text == "category":
            return self._index.text("category", int(self._index["class"][row]))
        return _coco.texts_of(annotation)[number] if number >= 0 else None

    def picture_files(self) -> Iterator[StoredPicture]:
        """Of the regions taken."""
        return _coco.stored(self._folder, self._index, np.asarray(self._chosen))

    def usage(self) -> list[Usage]:
        """Of the annotations of the file, and how unusual pictures were read."""
        usage = usage_of_index(self._index, len(self._chosen), len(self._index["begin"]))
        return [replace(usage, notes=usage.notes + self.pictures.notes())]

    def images(self) -> list[list[int]]:
        """Indices grouped by picture, in order."""
        groups: dict[int, list[int]] = {}
        for index, row in enumerate(self._chosen):
            groups.setdefault(int(self._index["picture"][row]), []).append(index)
        return list(groups.values())
