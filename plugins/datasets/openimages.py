"""Open Images V7 instance masks: a CSV of masks, 1-bit PNGs of another size than the pictures, and class names.

Layout under ``root``: ``{split}-annotations-object-segmentation.csv``, ``images/{split}/{ImageID}.jpg``,
``masks/{split}/{MaskPath}``, both flat or in 16 folders named by the first digit, and, where class names are wanted,
``oidv7-class-descriptions.csv`` or one of its relatives. Ids are hexadecimal text and are never read as numbers.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from core.contracts import BadSample, Count, Region, UserError
from plugins.datasets._build import line_starts
from plugins.datasets._cache import cached, stamp_of
from plugins.datasets._index import check_draft, existing_file, existing_folder, read_mask_file, read_picture, spread

_LABEL_FILES = (
    "oidv7-class-descriptions.csv",
    "oidv7-class-descriptions-boxable.csv",
    "class-descriptions.csv",
    "class-descriptions-boxable.csv",
)
_COLUMNS = ("MaskPath", "ImageID", "LabelName")


class OpenImages:
    """One region for each row of the CSV; ids are ``{split}/{MaskPath without suffix}``."""

    def __init__(
        self,
        *,
        root: Path,
        split: Literal["train", "validation", "test"] = "train",
        caption: Literal["none", "class_name"] = "none",
        max_samples: Count | None = None,
        draft: Count | None = None,
    ) -> None:
        """The byte offsets of the CSV's rows are indexed once; ``max_samples`` of them are taken, spread over it.
        ``draft``: see ``docs/data.md``. Raises ``UserError``."""
        self.draft = check_draft(draft)
        if caption not in ("none", "class_name"):
            raise ValueError(f"caption must be none or class_name, not {caption}.")
        self.root = existing_folder(root, "openimages", "the segmentation CSV, images/ and masks/")
        self.split = split
        self._table = existing_file(self.root / f"{split}-annotations-object-segmentation.csv", "openimages")
        with self._table.open("rb") as file:
            header = file.readline()
        self._columns = _fields(header)
        absent = [name for name in _COLUMNS if name not in self._columns]
        if absent:
            raise UserError(f"openimages: {self._table} has no column {absent[0]} in its first line; fetch the file again.")
        options = {"table": self._table.resolve()}
        begin = len(header)
        self._index = cached("openimages", options, stamp_of([self._table]), lambda _: {"offsets": line_starts(self._table, begin)})
        count = len(self._index["offsets"])
        if not count:
            raise UserError(f"openimages: {self._table} lists no mask; check split.")
        self._chosen = spread(count, max_samples)
        self._names = _class_names(self.root) if caption == "class_name" else None

    def its_files(self) -> list[Path]:
        return [self._table]

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Region:
        offset = int(self._index["offsets"][self._chosen[index]])
        with self._table.open("rb") as file:
            file.seek(offset)
            row = dict(zip(self._columns, _fields(file.readline()), strict=False))
        try:
            mask_name, picture, label = (row[name] for name in _COLUMNS)
        except KeyError as fault:
            raise BadSample("damaged row", f"{self.split}/byte {offset}", f"no {fault}") from fault
        sample = f"{self.split}/{mask_name.removesuffix('.png')}"
        if Path(mask_name).name != mask_name or Path(picture).name != picture:  # a name must not lead out of its folder
            raise BadSample("damaged row", sample, "a name with a path")
        image = read_picture(_place(self.root / "images" / self.split, f"{picture}.jpg"), sample, self.draft)  # [H, W, 3]
        drawn = read_mask_file(_place(self.root / "masks" / self.split, mask_name), sample)
        height, width = image.shape[:2]
        # masks were drawn on larger originals; some pictures have been turned since
        if abs(math.log(drawn.width * height / (drawn.height * width))) > 0.05:
            raise BadSample("mask and picture differ in shape", sample, f"{drawn.width}x{drawn.height} and {width}x{height}")
        mask = np.array(drawn.resize((width, height), Image.Resampling.NEAREST), dtype=bool)  # [H, W]
        if not mask.any():
            raise BadSample("empty mask", sample)
        if self._names is None:
            return Region(id=sample, image=image, mask=mask)
        if label not in self._names:
            raise BadSample("class without a name", sample, label)
        return Region(id=sample, image=image, mask=mask, caption=self._names[label], category=self._names[label])


def _fields(line: bytes) -> list[str]:
    """A CSV line's fields; none of a damaged line."""
    try:
        return next(csv.reader([line.decode("utf-8-sig", "replace")]), [])
    except csv.Error:
        return []


def _place(folder: Path, name: str) -> Path:
    """The file in ``folder``, or in its sub-folder named by the first digit of the name."""
    apart = folder / name[:1] / name
    return apart if apart.is_file() else folder / name


def _class_names(root: Path) -> dict[str, str]:
    """Label id -> name, from the first label file there is; V7 files have a header line, older ones have none."""
    path = next((root / name for name in _LABEL_FILES if (root / name).is_file()), None)
    if path is None:
        raise UserError(f"openimages: {root} has no {_LABEL_FILES[0]}, which caption: class_name needs; fetch it or set caption: none.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if len(row) >= 2]
        return {label: name for label, name, *_ in rows if label.startswith(("/m/", "/g/")) and name.strip()}
    except (UnicodeDecodeError, csv.Error) as fault:
        raise UserError(f"openimages: {path} cannot be read as a CSV of class names ({fault}); fetch it again.") from fault
