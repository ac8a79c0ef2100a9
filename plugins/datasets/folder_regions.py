"""One's own data as a folder: pictures, masks and a ``regions.jsonl`` that names them.

Each line is an object ``{"image": "a.jpg", "mask": "a_1.png", "caption": "a red cup"}``; ``caption`` may be left out. May be added:
an ``id``; a second view ``image2`` with ``mask2``; ``captions``, a list instead of ``caption``; a ``category``; ``extra``, an object of
whatever a loop wants; a ``label``, where one mask file holds several objects. Names are relative to the folder and stay inside it. A
mask is a picture of its image's size in which everything that is opaque and not black belongs to the object. ``"mask": null`` says that
the phrase has no target.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from core.contracts import BadSample, Count, Region, StoredPicture, Usage, UserError
from core.pixels import MAX_PIXELS, Label, MaskKind, Unreadable, check_label, labels_of
from plugins.datasets import _json, _recognize, _rle
from plugins.datasets._build import over_files
from plugins.datasets._cache import cached, stamp_of
from plugins.datasets._index import existing_file, existing_folder, spread
from plugins.datasets._names import named_file
from plugins.datasets._pictures import Pictures
from plugins.datasets._text import sound
from plugins.datasets._usage import Tally, usage_of_index

_LOOKED_AT = 64  # masks, to see whether a folder's hold several objects each
_COLOUR = 1 << 24  # added to a label that is a colour, in the index
_LONGEST = 2**20  # bytes of a line


class FolderRegions:
    """One region for each line; the id is the line's ``id``, else ``{image}#{line's byte offset}``. Where masks hold several objects, one
    for each of them, with ``#{label}`` behind the id."""

    recognizes = staticmethod(_recognize.folder_regions)

    def __init__(
        self,
        *,
        root: Path,
        file: str = "regions.jsonl",
        masks: Literal["auto", "binary", "index"] = "auto",
        orientation: Literal["shown", "stored"] = "shown",
        empty_masks: bool = False,
        max_samples: Count | None = None,
        max_pixels: Count = MAX_PIXELS,
        draft: Count | None = None,
    ) -> None:
        """``masks``: ``binary``, all that is not black is one object; ``index``, each number of a palette, grey level or colour is
        one, 255 and VOC's void colour are nobody's; ``auto`` looks, and refuses what it cannot tell. ``orientation``: whether masks
        were drawn on the pictures as they are shown, or on the pixels as stored, without EXIF's orientation. ``empty_masks``: takes
        lines without a target, for a loop that takes them. ``max_pixels`` of a picture or mask that is decoded. ``draft``: see
        ``docs/data.md``. Raises ``UserError`` where the folder or the file is missing or the file is empty."""
        if masks not in ("auto", "binary", "index"):
            raise ValueError(f"masks must be auto, binary or index, not {masks}.")
        self.pictures = Pictures("folder_regions", draft=draft, orientation=orientation, max_pixels=max_pixels)
        self.masks, self.empty_masks = masks, empty_masks
        self.root = existing_folder(root, "folder_regions", f"pictures, masks and {file}")
        self._table = existing_file(self.root / file, "folder_regions")
        options = {"table": self._table.resolve(), "masks": masks, "index": 2}
        self._index = cached("folder_regions", options, stamp_of([self._table]), self._build)
        if not len(self._index["rows"]):
            raise UserError(f"folder_regions: {self._table} is empty; write one JSON object a line into it.")
        self._chosen = spread(len(self._index["rows"]), max_samples)

    def _build(self, folder: Path) -> dict[str, np.ndarray]:
        """Where objects begin and how long they are [l, 2] int64, and [n, 2] int32 object and label of each region, -1 for the whole
        mask."""
        places = _json.records(self._table, "folder_regions")
        names = [f"{begin} {length}" for begin, length in places.tolist()]
        look = partial(_objects, self.root, self._table, self.masks, self.pictures.limit)
        some = tuple(names[place] for place in spread(len(names), _LOOKED_AT)) if names else ()
        several = self.masks == "index" or (self.masks == "auto" and len(look(some)) > len(some))
        whole = np.stack([np.arange(len(names)), np.full(len(names), -1)], axis=1).astype(np.int32)  # [l, 2]
        rows = over_files("folder_regions", look, names, folder, 1) if several else whole
        tally = Tally("lines")
        if len(rows) > len(names):
            tally.notes.append(f"masks hold several objects: {len(rows):,} regions, one for each number or colour")
        return {"places": places, "rows": rows, **tally.arrays(len(names))}

    def its_files(self) -> list[Path]:
        return [self._table]

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Region:
        line, code = (int(value) for value in self._index["rows"][self._chosen[index]])
        start, length = (int(value) for value in self._index["places"][line])
        place = f"byte {start} of {self._table.name}"
        try:
            row = _line(self._table, start, length)
        except (ValueError, RecursionError) as fault:
            raise BadSample("damaged line", place, str(fault)) from fault
        sample = str(row["id"] if row.get("id") is not None else f"{row.get('image')}#{start}")
        label: Label | None = None if code < 0 else f"#{code - _COLOUR:06x}" if code >= _COLOUR else code
        if label is not None:
            sample += f"#{str(label).removeprefix('#')}"
        texts = _texts(row, sample)
        image, mask = self._view(row, "image", "mask", label, sample)
        image2, mask2 = self._view(row, "image2", "mask2", label, sample) if "image2" in row else (None, None)
        return Region(id=sample, image=image, mask=mask, image2=image2, mask2=mask2, **texts)

    def picture_files(self) -> Iterator[StoredPicture]:
        """Those that the lines taken name, as far as they are there."""
        for line in np.unique(self._index["rows"][np.asarray(self._chosen), 0]).tolist():
            with suppress(BadSample, ValueError, RecursionError):  # counted where it is drawn
                row = _line(self._table, *self._index["places"][line].tolist())
                for key in ("image", "image2"):
                    if key in row:
                        yield StoredPicture(_path(self.root, row, key, ""))

    def usage(self) -> list[Usage]:
        """Of the lines of the file, and how unusual files were read."""
        usage = usage_of_index(self._index, len(self._chosen), len(self._index["rows"]))
        return [replace(usage, notes=usage.notes + self.pictures.notes())]

    def _view(self, row: dict[str, Any], image_key: str, mask_key: str, label: Label | None, sample: str) -> tuple[np.ndarray, np.ndarray]:
        """[H, W, 3] uint8 and [H, W] bool."""
        if mask_key in row and row[mask_key] is None:
            if not self.empty_masks:
                raise BadSample("no target", sample, "a line without a mask needs empty_masks")
            image = self.pictures.picture(_path(self.root, row, image_key, sample), sample)
            return image, np.zeros(image.shape[:2], bool)
        label = self._label(row, mask_key, sample) if label is None else label
        mask = self.pictures.mask(_path(self.root, row, mask_key, sample), sample, self.masks, label)
        if not mask.any():
            raise BadSample("empty mask", sample, mask_key if label is None else f"{mask_key} has no pixel of the label {label}")
        image, factor = self.pictures.view(_path(self.root, row, image_key, sample), sample, mask.shape)
        return image, _rle.reduced(mask, factor, sample)

    def _label(self, row: dict[str, Any], mask_key: str, sample: str) -> Label | None:
        """The line's own label; that of the second mask is ``label2``, else the first one's."""
        given = row.get("label2", row.get("label")) if mask_key == "mask2" else row.get("label")
        try:
            return None if given is None else check_label(given)
        except ValueError as fault:
            raise BadSample("damaged line", sample, str(fault)) from fault


def _line(table: Path, start: int, length: int) -> dict[str, Any]:
    """The object that stands at a byte. Raises ``ValueError``."""
    with table.open("rb") as file:
        file.seek(start)
        row = _json.parsed(file.read(min(length, _LONGEST)))
    if not isinstance(row, dict):
        raise ValueError('no JSON object: each line is one, such as {"image": "a.jpg", "mask": "m.png"}')
    return row


def _objects(root: Path, table: Path, masks: MaskKind, limit: int, starts: tuple[str, ...]) -> np.ndarray:
    """[m, 2] int32 place in ``starts`` and label of each region. What cannot be read keeps a place, so that it is met and counted."""
    rows = []
    for place, start in enumerate(starts):
        labels: list[Label] | None = None
        try:
            row = _line(table, *map(int, start.split()))
            # with a caption of its own a line is about one object: which, its label has to say, unless each is asked for
            own = "label" in row or (masks == "auto" and (row.get("caption") or row.get("captions")))
            if row.get("mask") is not None and not own:
                labels = labels_of(_path(root, row, "mask", start), kind=masks, limit=limit)
        except (BadSample, Unreadable, ValueError, RecursionError):
            labels = None
        whole = labels is None or (len(labels) < 2 and masks == "auto") or not labels
        rows += [(place, -1)] if whole else [(place, one if isinstance(one, int) else _COLOUR + int(one[1:], 16)) for one in labels or ()]
    return np.array(rows, np.int32).reshape(-1, 2)


def _path(root: Path, row: dict[str, Any], key: str, sample: str) -> Path:
    name = row.get(key)
    if not isinstance(name, str) or not name:
        raise BadSample("damaged line", sample, f"no {key}")
    return named_file(root, name, sample, "picture" if key.startswith("image") else "mask")


def _texts(row: dict[str, Any], sample: str) -> dict[str, Any]:
    """A line's caption or captions, category and further fields. Raises ``BadSample``."""
    caption, captions, category, extra = (row.get(key) for key in ("caption", "captions", "category", "extra"))
    if captions is not None and (caption is not None or not isinstance(captions, list) or not captions):
        raise BadSample("damaged line", sample, "captions is to be a list of texts instead of caption")
    given = [text for text in (caption, category, *(captions or ())) if text is not None]
    if not all(isinstance(text, str) for text in given) or not isinstance(extra or {}, dict):
        raise BadSample("damaged line", sample, "captions and category are texts, extra is an object")
    if any(not sound(text, sample).strip() for text in given):
        raise BadSample("blank caption", sample)
    stripped = [text.strip() for text in captions or ()]
    return {
        "caption": caption.strip() if caption else None,
        "captions": stripped,
        "category": category.strip() if category else None,
        "extra": extra or {},
    }
