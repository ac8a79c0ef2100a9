"""Open Images V7 instance masks: a CSV of masks, 1-bit PNGs of another size than the pictures, and class names.

Layout under ``root``: ``{split}-annotations-object-segmentation.csv``, ``images/{split}/{ImageID}.jpg``,
``masks/{split}/{MaskPath}``, both flat or in 16 folders named by the first digit, or as the archives unpack: ``train-masks-0/`` and
``train_0/``, in ``root`` or in ``masks/`` and ``images/``. Where class names are wanted, ``oidv7-class-descriptions.csv`` or one of its
relatives. Ids are hexadecimal text and are never read as numbers.

Boxes and masks are of the pixels as stored: the data set's page on rotation (2018-05-17-rotation-information.html) gives the degrees by
which "the image and boxes" are to be turned. So an EXIF orientation is not applied, unless a mask fits the picture only then.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from core.contracts import BadSample, Count, Region, StoredPicture, Usage, UserError
from plugins.datasets import _recognize
from plugins.datasets._build import line_starts
from plugins.datasets._cache import cached, stamp_of
from plugins.datasets._index import existing_file, existing_folder, spread
from plugins.datasets._pictures import Pictures
from plugins.datasets._text import line_of, read_line, read_text, text_encoding
from plugins.datasets._usage import Tally, usage_of_index

_LABEL_FILES = (
    "oidv7-class-descriptions.csv",
    "oidv7-class-descriptions-boxable.csv",
    "class-descriptions.csv",
    "class-descriptions-boxable.csv",
)
_DIGITS = "0123456789abcdef"
_COLUMNS = ("MaskPath", "ImageID", "LabelName")


class OpenImages:
    """One region for each row of the CSV; ids are ``{split}/{MaskPath without suffix}``."""

    recognizes = staticmethod(_recognize.openimages)

    def __init__(
        self,
        *,
        root: Path,
        split: Literal["train", "validation", "test"] = "train",
        caption: Literal["none", "class_name"] = "none",
        orientation: Literal["stored", "shown"] = "stored",
        max_samples: Count | None = None,
        draft: Count | None = None,
    ) -> None:
        """The byte offsets of the CSV's rows are indexed once; ``max_samples`` of them are taken, spread over it. ``orientation``: what
        the masks were drawn on, see above; ``shown`` for a copy whose masks follow EXIF. ``draft``: see ``docs/data.md``. Raises
        ``UserError``."""
        self.pictures = Pictures("openimages", draft=draft, orientation=orientation)
        if caption not in ("none", "class_name"):
            raise ValueError(f"caption must be none or class_name, not {caption}.")
        self.root = existing_folder(root, "openimages", "the segmentation CSV, images/ and masks/")
        self.split = split
        self._table = existing_file(self.root / f"{split}-annotations-object-segmentation.csv", "openimages")
        self._encoding = text_encoding(self._table, "openimages")
        with self._table.open("rb") as file:
            header = read_line(file, self._encoding)
        try:
            self._columns = _fields(line_of(header, self._encoding, str(self._table)))
        except BadSample as fault:
            raise UserError(f"openimages: {fault}") from fault
        absent = [name for name in _COLUMNS if name not in self._columns]
        if absent:
            raise UserError(f"openimages: {self._table} has no column {absent[0]} in its first line; it is to be the CSV of the masks.")
        options, begin, unit = {"table": self._table.resolve()}, len(header), self._encoding.unit
        self._index = cached("openimages", options, stamp_of([self._table]), lambda _: _build(self._table, begin, unit))
        count = len(self._index["offsets"])
        if not count:
            raise UserError(f"openimages: {self._table} lists no mask; check split.")
        self._chosen = spread(count, max_samples)
        places = ["images/{split}/{first}", "images/{split}", "images/{split}_{first}", "{split}_{first}", "{split}", "images"]
        self._images = _folders(self.root, split, places)
        places = ["masks/{split}/{first}", "masks/{split}", "masks/{split}-masks-{first}", "masks/{split}/{split}-masks-{first}"]
        self._masks = _folders(self.root, split, [*places, "{split}-masks-{first}", "{split}-masks", "masks"])
        self._names = _class_names(self.root) if caption == "class_name" else None

    def its_files(self) -> list[Path]:
        return [self._table]

    def usage(self) -> list[Usage]:
        """Of the rows of the CSV, and how unusual pictures were read."""
        usage = usage_of_index(self._index, len(self._chosen), len(self._index["offsets"]))
        return [replace(usage, notes=usage.notes + self.pictures.notes())]

    def picture_files(self) -> Iterator[StoredPicture]:
        """Of the rows taken, whose lines are read one after the other."""
        known = set[str]()
        with self._table.open("rb") as file:
            for row in self._chosen:
                file.seek(int(self._index["offsets"][row]))
                with suppress(BadSample):  # counted where it is drawn
                    line = line_of(read_line(file, self._encoding), self._encoding, "")
                    picture = dict(zip(self._columns, _fields(line), strict=False)).get("ImageID", "")
                    place = _place(self.root, self._images, f"{picture}.jpg")
                    if picture not in known and Path(picture).name == picture and place.is_file():
                        yield StoredPicture(place)
                    known.add(picture)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Region:
        offset = int(self._index["offsets"][self._chosen[index]])
        with self._table.open("rb") as file:
            file.seek(offset)
            line = line_of(read_line(file, self._encoding), self._encoding, f"{self.split}/byte {offset}")
            row = dict(zip(self._columns, _fields(line), strict=False))
        try:
            mask_name, picture, label = (row[name] for name in _COLUMNS)
        except KeyError as fault:
            raise BadSample("damaged row", f"{self.split}/byte {offset}", f"no {fault}") from fault
        sample = f"{self.split}/{mask_name.removesuffix('.png')}"
        if Path(mask_name).name != mask_name or Path(picture).name != picture:  # a name must not lead out of its folder
            raise BadSample("damaged row", sample, "a name with a path")
        place = _place(self.root, self._images, f"{picture}.jpg")
        if not place.is_file():
            raise BadSample("missing picture", sample, str(place))
        drawn = self.pictures.mask(_place(self.root, self._masks, mask_name), sample)  # [h, w], drawn on a larger original
        image, _ = self.pictures.view(place, sample, drawn.shape, scaled=True)  # [H, W, 3]
        size = (image.shape[1], image.shape[0])
        mask = np.array(Image.fromarray(drawn).resize(size, Image.Resampling.NEAREST), dtype=bool)  # [H, W]
        if not mask.any():
            raise BadSample("empty mask", sample)
        if self._names is None:
            return Region(id=sample, image=image, mask=mask)
        if label not in self._names:
            raise BadSample("class without a name", sample, label)
        return Region(id=sample, image=image, mask=mask, caption=self._names[label], category=self._names[label])


def _fields(line: str) -> list[str]:
    """A CSV line's fields; none of a damaged line."""
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def _folders(root: Path, split: str, places: list[str]) -> list[str]:
    """The two usual places and those of the others that are there, ``{first}`` left in them for the first digit of a name."""
    named = [place.replace("{split}", split) for place in places]
    return named[:2] + [place for place in named[2:] if any((root / place.replace("{first}", digit)).is_dir() for digit in _DIGITS)]


def _place(root: Path, folders: list[str], name: str) -> Path:
    """The file in the first of the folders that has it."""
    paths = [root / folder.replace("{first}", name[:1]) / name for folder in folders]
    return next((path for path in paths if path.is_file()), paths[1])


def _build(table: Path, begin: int, unit: str) -> dict[str, np.ndarray]:
    offsets = line_starts(table, begin, unit)  # [n] int64
    return {"offsets": offsets, **Tally("rows").arrays(len(offsets))}


def _class_names(root: Path) -> dict[str, str]:
    """Label id -> name, from the first label file there is; V7 files have a header line, older ones have none."""
    path = next((root / name for name in _LABEL_FILES if (root / name).is_file()), None)
    if path is None:
        raise UserError(f"openimages: {root} has no {_LABEL_FILES[0]}, which caption: class_name needs; fetch it or set caption: none.")
    try:
        rows = [row for row in csv.reader(io.StringIO(read_text(path, "openimages"), newline="")) if len(row) >= 2]
        return {label: name for label, name, *_ in rows if label.startswith(("/m/", "/g/")) and name.strip()}
    except csv.Error as fault:
        raise UserError(f"openimages: {path} cannot be read as a CSV of class names ({fault}).") from fault
