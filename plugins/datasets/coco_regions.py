"""One's own data as a COCO file: ``images`` and ``annotations`` with polygons or run-length masks.

An annotation may carry texts: ``caption`` (one), ``captions`` or ``phrases`` (a list; each gives a region of its own).
The file is walked once for the places of its annotations; afterwards only the wanted one is read.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from core.contracts import BadSample, Count, Region, Usage, UserError
from plugins.datasets import _json, _recognize, _rle
from plugins.datasets._build import watched
from plugins.datasets._cache import cached, pack, stamp_of
from plugins.datasets._index import existing_file, existing_folder, spread
from plugins.datasets._pictures import Pictures
from plugins.datasets._usage import Tally, usage_of_index


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
        max_samples: Count | None = None,
        draft: Count | None = None,
    ) -> None:
        """``text``: the annotation's own texts (None where it has none), its category's name, or nothing. ``crowds``: whether
        groups marked ``iscrowd`` count as regions. ``empty_masks``: takes annotations whose ``segmentation`` is an empty list, phrases
        without a target, for a loop that takes them. ``draft``: see ``docs/data.md``. Raises ``UserError`` for a file that is no
        COCO file."""
        self.pictures = Pictures("coco_regions", draft=draft)
        self.empty_masks = empty_masks
        if text not in ("annotation", "category", "none"):
            raise ValueError(f"text must be annotation, category or none, not {text}.")
        self._file = existing_file(Path(annotations).expanduser(), "coco_regions")
        self._folder, self.text = existing_folder(images, "coco_regions", "the pictures of the COCO file"), text
        options = {"file": self._file.resolve(), "text": text, "crowds": crowds, "index": 2}
        self._index = cached("coco_regions", options, stamp_of([self._file]), lambda _: _build(self._file, text, crowds))
        if not len(self._index["begin"]):
            raise UserError(f"coco_regions: {self._file} has no annotation to use; check it, or set crowds.")
        self._chosen = spread(len(self._index["begin"]), max_samples)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Region:
        row, arrays = int(self._chosen[index]), self._index
        number = int(arrays["number"][row])
        annotation = _json.read_object(self._file, int(arrays["begin"][row]), int(arrays["length"][row]), f"annotation #{row}")
        sample = f"{annotation['id']}/{max(number, 0)}"
        picture = int(arrays["picture"][row])
        if picture < 0:
            raise BadSample("not in images", sample, str(annotation.get("image_id")))
        height, width = (int(side) for side in arrays["size"][picture])
        empty = self.empty_masks and annotation.get("segmentation") == []
        mask = None if empty else _rle.annotated(annotation, height, width, sample)  # [H, W]
        caption = self._caption(annotation, number, row)
        if caption is not None and not caption.strip():
            raise BadSample("blank caption", sample)
        name = PurePosixPath(arrays.text("file", picture))
        if name.is_absolute() or ".." in name.parts:
            raise BadSample("damaged annotation", sample, "a picture outside the folder")
        image, factor = self.pictures.view(self._folder / name, sample, (height, width))  # [H, W, 3]
        return Region(
            id=sample,
            image=image,
            mask=np.zeros(image.shape[:2], bool) if mask is None else _rle.reduced(mask, factor, sample),
            caption=caption.strip() if caption else None,
            category=self._category(row),
        )

    def _category(self, row: int) -> str | None:
        """The name that ``categories`` gives, if it gives one."""
        place = int(self._index["class"][row])
        return (self._index.text("category", place).strip() or None) if place >= 0 else None

    def _caption(self, annotation: dict[str, Any], number: int, row: int) -> str | None:
        if self.text == "category":
            return self._index.text("category", int(self._index["class"][row]))
        return _texts(annotation)[number] if number >= 0 else None

    def usage(self) -> list[Usage]:
        """Of the annotations of the file."""
        return [usage_of_index(self._index, len(self._chosen), len(self._index["begin"]))]

    def images(self) -> list[list[int]]:
        """Indices grouped by picture, in order."""
        groups: dict[int, list[int]] = {}
        for index, row in enumerate(self._chosen):
            groups.setdefault(int(self._index["picture"][row]), []).append(index)
        return list(groups.values())

    def coco_images(self) -> set[int]:
        """Ids of the pictures used, where they are numbers."""
        ids = self._index["image_id"]
        return {int(ids[picture]) for picture in np.unique(self._index["picture"][np.asarray(self._chosen)]) if picture >= 0} - {-1}


def _texts(annotation: dict[str, Any]) -> list[str]:
    given = annotation.get("caption", annotation.get("captions", annotation.get("phrases")))
    return [text if isinstance(text, str) else "" for text in (given if isinstance(given, list) else [given] if given is not None else [])]


def _build(path: Path, text: str, crowds: bool) -> dict[str, np.ndarray]:
    content = _json.read_text(path, "coco_regions")
    try:
        places = {key: begin for key, begin, _ in _json.members(content)}
        pictures = [one for one, _, _ in _json.elements(content, places["images"])]
        categories = [one for one, _, _ in _json.elements(content, places["categories"])] if "categories" in places else []
        picture_rows = {one["id"]: row for row, one in enumerate(pictures)}
        class_rows = {one["id"]: row for row, one in enumerate(categories)}
        rows, entries, tally = [], 0, Tally("annotations")
        for one, begin, end in watched("coco_regions", len(content), _json.elements(content, places["annotations"])):
            entries += 1
            if one.get("iscrowd") and not crowds:
                tally.leave("crowd", str(one.get("id")), advice="CVAT marks every brush mask so: crowds: true takes them")
                continue
            count = len(_texts(one)) if text == "annotation" else 0
            kind = class_rows[one["category_id"]] if text == "category" else class_rows.get(one.get("category_id"), -1)
            one["id"]  # every region is named by it
            rows += [(begin, end - begin, picture_rows.get(one["image_id"], -1), n, kind) for n in (range(count) if count else [-1])]
        table = np.array(rows, np.int64).reshape(-1, 5)
        return {
            "begin": table[:, 0],
            **{name: table[:, place].astype(np.int32) for place, name in enumerate(("length", "picture", "number", "class"), start=1)},
            "size": np.array([(one["height"], one["width"]) for one in pictures], np.int32).reshape(-1, 2),
            "image_id": np.array([one["id"] if isinstance(one["id"], int) else -1 for one in pictures], np.int64),
            **pack("file", [_json.utf8(one["file_name"]) for one in pictures]),
            **pack("category", [_json.utf8(one["name"]) for one in categories]),
            **tally.arrays(entries),
        }
    except (KeyError, TypeError, AttributeError, OverflowError) as fault:
        raise UserError(f"coco_regions: {path} is no COCO instances file ({fault} is missing or of another kind).") from fault
    except (json.JSONDecodeError, ValueError, RecursionError) as fault:
        raise UserError(f"coco_regions: {path} cannot be read as JSON ({fault}); fetch it again.") from fault
