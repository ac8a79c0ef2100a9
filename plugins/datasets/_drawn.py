"""Regions that people have drawn in a program with files of its own: labelme, the VGG Image Annotator. Few enough to be kept whole.

A build turns each drawn shape into polygons and puts them into a table, which is the index; the data set reads them from there.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from core.contracts import BadSample, Count, Region, StoredPicture, Usage, UserError
from plugins.datasets import _rle
from plugins.datasets._cache import Index, pack
from plugins.datasets._index import spread
from plugins.datasets._names import named_file
from plugins.datasets._pictures import Pictures
from plugins.datasets._text import sound
from plugins.datasets._usage import Tally, usage_of_index

Text = Literal["annotation", "category", "none"]
_CORNERS = 72  # of the polygon that a circle becomes


class Table:
    """The rows of the index while it is built."""

    def __init__(self, unit: str) -> None:
        self.tally, self.entries = Tally(unit), 0
        self._pictures: dict[tuple[str, str], int] = {}
        self._sizes: list[tuple[int, int]] = []
        self._rows: list[int] = []
        self._texts: dict[str, list[str]] = {"id": [], "shape": [], "category": [], "caption": []}

    def picture(self, file: str, name: str, height: Any = None, width: Any = None) -> int:
        """The row of a picture: its name, and the annotation file that gives it. Sizes may be anything; -1 stands for none."""
        row = self._pictures.setdefault((file, name), len(self._sizes))
        if row == len(self._sizes):
            self._sizes.append(tuple(side if type(side) is int and 0 < side < 2**31 else -1 for side in (height, width)))  # type: ignore[arg-type]
        return row

    def add(self, picture: int, sample: str, shape: dict[str, Any], category: Any, caption: Any) -> None:
        """``shape``: ``polygons``, or ``masks``, PNGs in base64 with the places of their first corners."""
        self._rows.append(picture)
        values = {"id": sample, "shape": json.dumps(shape), "category": category, "caption": caption}
        for name, value in values.items():
            self._texts[name].append(value if isinstance(value, str) else "" if value is None else str(value))

    def arrays(self) -> dict[str, np.ndarray]:
        names = list(self._pictures)
        return {
            "picture": np.array(self._rows, np.int32),
            "size": np.array(self._sizes, np.int32).reshape(-1, 2),
            **pack("file", [file for file, _ in names]),
            **pack("name", [name for _, name in names]),
            **{key: array for name, texts in self._texts.items() for key, array in pack(name, texts).items()},
            **self.tally.arrays(self.entries),
        }


class Drawn:
    """The regions of a table; ids are those that its build gave."""

    def __init__(self, index: Index, read: Path, root: Path, text: Text, max_samples: Count | None, pictures: Pictures) -> None:
        """``read``: the file or folder that the table was made from. Raises ``UserError`` where the table has no region."""
        if text not in ("annotation", "category", "none"):
            raise ValueError(f"text must be annotation, category or none, not {text}.")
        self.root, self.text, self.pictures, self._index = root, text, pictures, index
        if not len(index["picture"]):
            raise UserError(f"{pictures.source}: {read} has no region to use: {usage_of_index(index)}.")
        self._chosen = spread(len(index["picture"]), max_samples)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Region:
        row, arrays = int(self._chosen[index]), self._index
        sample, category = arrays.text("id", row), arrays.text("category", row).strip()
        texts = {"annotation": arrays.text("caption", row), "category": category, "none": ""}
        caption = sound(texts[self.text], sample).strip()
        if self.text == "category" and not caption:
            raise BadSample("blank caption", sample)
        picture = int(arrays["picture"][row])
        height, width = (int(side) for side in arrays["size"][picture])
        image, _ = self.pictures.view(self._source(picture, sample), sample, (height, width) if min(height, width) > 0 else None)
        mask = self._mask(json.loads(arrays.text("shape", row)), image.shape[:2], sample)
        if not mask.any():
            raise BadSample("empty mask", sample)
        return Region(id=sample, image=image, mask=mask, caption=caption or None, category=category or None)

    def _source(self, picture: int, sample: str) -> Path | bytes:
        return named_file(self.root, self._index.text("name", picture), sample)

    def _mask(self, shape: dict[str, Any], size: tuple[int, ...], sample: str) -> np.ndarray:
        """[H, W] bool."""
        height, width = size
        mask = np.zeros((height, width), bool)
        if shape.get("polygons"):
            mask |= _rle.segmentation(shape["polygons"], height, width, sample, limit=self.pictures.limit)
        for coded, left, top in shape.get("masks", ()):
            try:
                data = base64.b64decode(coded, validate=True)
            except ValueError as fault:
                raise BadSample("damaged mask", sample, f"no base64: {fault}") from fault
            part = self.pictures.mask(data, sample, "binary")[max(0, -top) :, max(0, -left) :]  # [h, w]
            place = mask[max(0, top) : max(0, top) + part.shape[0], max(0, left) : max(0, left) + part.shape[1]]
            place |= part[: place.shape[0], : place.shape[1]]
        return mask

    def picture_files(self) -> Iterator[StoredPicture]:
        """Of the regions taken, as far as they are files of their own."""
        for picture in np.unique(self._index["picture"][np.asarray(self._chosen)]).tolist():
            with suppress(BadSample):  # counted where it is drawn
                source = self._source(picture, "")
                if isinstance(source, Path):
                    yield StoredPicture(source)

    def usage(self) -> list[Usage]:
        """Of what was drawn, and how unusual pictures were read."""
        usage = usage_of_index(self._index, len(self._chosen), len(self._index["picture"]))
        return [replace(usage, notes=usage.notes + self.pictures.notes())]

    def images(self) -> list[list[int]]:
        """Indices grouped by picture, in order."""
        groups: dict[int, list[int]] = {}
        for index, picture in enumerate(self._index["picture"][np.asarray(self._chosen)].tolist()):
            groups.setdefault(picture, []).append(index)
        return list(groups.values())


def box(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def ellipse(x: float, y: float, across: float, down: float, turn: float = 0.0) -> list[float]:
    """A polygon for an ellipse with these half axes, turned by ``turn`` radians."""
    angles = [2 * math.pi * number / _CORNERS for number in range(_CORNERS)]
    points = [(across * math.cos(angle), down * math.sin(angle)) for angle in angles]
    along, beside = math.cos(turn), math.sin(turn)
    return [value for a, b in points for value in (x + a * along - b * beside, y + a * beside + b * along)]
