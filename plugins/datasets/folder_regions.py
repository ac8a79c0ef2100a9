"""One's own data as a folder: pictures, mask PNGs and a ``regions.jsonl`` that names them.

Each line is an object ``{"image": "a.jpg", "mask": "a_1.png", "caption": "a red cup"}``; ``caption`` may be left out. May be added:
an ``id``; a second view ``image2`` with ``mask2``; ``captions``, a list instead of ``caption``; a ``category``; ``extra``, an object of
whatever a loop wants. Names are relative to the folder and stay inside it. A mask is a picture of its image's size in which
everything that is not black belongs to the object. ``"mask": null`` says that the phrase has no target.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from core.contracts import BadSample, Count, Region, UserError
from plugins.datasets import _rle
from plugins.datasets._build import line_starts
from plugins.datasets._cache import cached, stamp_of
from plugins.datasets._index import check_draft, existing_file, existing_folder, read_mask_file, read_picture, read_view, spread


class FolderRegions:
    """One region for each line; the id is the line's ``id``, else ``{image}#{line's byte offset}``."""

    def __init__(
        self,
        *,
        root: Path,
        file: str = "regions.jsonl",
        empty_masks: bool = False,
        max_samples: Count | None = None,
        draft: Count | None = None,
    ) -> None:
        """``empty_masks``: takes lines without a target, for a loop that takes them. ``draft``: see ``docs/data.md``.
        Raises ``UserError`` where the folder or the file is missing or the file is empty."""
        self.draft, self.empty_masks = check_draft(draft), empty_masks
        self.root = existing_folder(root, "folder_regions", f"pictures, masks and {file}")
        self._table = existing_file(self.root / file, "folder_regions")
        options = {"table": self._table.resolve()}
        self._index = cached("folder_regions", options, stamp_of([self._table]), lambda _: {"starts": line_starts(self._table, 0)})
        if not len(self._index["starts"]):
            raise UserError(f"folder_regions: {self._table} is empty; write one JSON object a line into it.")
        self._chosen = spread(len(self._index["starts"]), max_samples)

    def its_files(self) -> list[Path]:
        return [self._table]

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Region:
        start = int(self._index["starts"][self._chosen[index]])
        place = f"byte {start} of {self._table.name}"
        with self._table.open("rb") as table:
            table.seek(start)
            line = table.readline(2**20)
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as fault:
            raise BadSample("damaged line", place, str(fault)) from fault
        if not isinstance(row, dict):
            raise BadSample("damaged line", place, "no JSON object")
        sample = str(row.get("id") or f"{row.get('image')}#{start}")
        texts = _texts(row, sample)
        image, mask = self._view(row, "image", "mask", sample)
        image2, mask2 = self._view(row, "image2", "mask2", sample) if "image2" in row else (None, None)
        return Region(id=sample, image=image, mask=mask, image2=image2, mask2=mask2, **texts)

    def _view(self, row: dict[str, Any], image_key: str, mask_key: str, sample: str) -> tuple[np.ndarray, np.ndarray]:
        """[H, W, 3] uint8 and [H, W] bool."""
        if mask_key in row and row[mask_key] is None:
            if not self.empty_masks:
                raise BadSample("no target", sample, "a line without a mask needs empty_masks")
            image = read_picture(self._path(row, image_key, sample), sample, self.draft)
            return image, np.zeros(image.shape[:2], bool)
        mask = np.array(read_mask_file(self._path(row, mask_key, sample), sample), bool)
        if not mask.any():
            raise BadSample("empty mask", sample, mask_key)
        image, factor = read_view(self._path(row, image_key, sample), sample, mask.shape, self.draft)
        return image, _rle.reduced(mask, factor, sample)

    def _path(self, row: dict[str, Any], key: str, sample: str) -> Path:
        name = row.get(key)
        if not isinstance(name, str) or not name:
            raise BadSample("damaged line", sample, f"no {key}")
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise BadSample("damaged line", sample, f"{key} leads out of the folder")
        return self.root / name


def _texts(row: dict[str, Any], sample: str) -> dict[str, Any]:
    """A line's caption or captions, category and further fields. Raises ``BadSample``."""
    caption, captions, category, extra = (row.get(key) for key in ("caption", "captions", "category", "extra"))
    if captions is not None and (caption is not None or not isinstance(captions, list) or not captions):
        raise BadSample("damaged line", sample, "captions is to be a list of texts instead of caption")
    given = [text for text in (caption, category, *(captions or ())) if text is not None]
    if not all(isinstance(text, str) for text in given) or not isinstance(extra or {}, dict):
        raise BadSample("damaged line", sample, "captions and category are texts, extra is an object")
    if any(not text.strip() for text in given):
        raise BadSample("blank caption", sample)
    stripped = [text.strip() for text in captions or ()]
    return {
        "caption": caption.strip() if caption else None,
        "captions": stripped,
        "category": category.strip() if category else None,
        "extra": extra or {},
    }
