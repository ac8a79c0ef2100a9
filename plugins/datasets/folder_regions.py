"""One's own data as a folder: pictures, mask PNGs and a ``regions.jsonl`` that names them.

Each line is an object ``{"image": "a.jpg", "mask": "a_1.png", "caption": "a red cup"}``; ``caption`` may be left out, an
``id`` and a second view ``image2`` with ``mask2`` may be added. Names are relative to the folder and stay inside it. A mask
is a picture of its image's size in which everything that is not black belongs to the object.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from core.contracts import BadSample, Region, UserError
from plugins.datasets import _rle
from plugins.datasets._build import line_starts
from plugins.datasets._cache import cached, stamp_of
from plugins.datasets._index import check_draft, existing_file, existing_folder, read_mask_file, read_view, spread


class FolderRegions:
    """One region for each line; the id is the line's ``id``, else ``{image}#{line's byte offset}``."""

    def __init__(self, *, root: Path, file: str = "regions.jsonl", max_samples: int | None = None, draft: int | None = None) -> None:
        """``draft``: see ``docs/data.md``. Raises ``UserError`` where the folder or the file is missing or the file is empty."""
        self.draft = check_draft(draft)
        self.root = existing_folder(root, "folder_regions", f"pictures, masks and {file}")
        self._table = existing_file(self.root / file, "folder_regions")
        options = {"table": self._table.resolve()}
        self._index = cached("folder_regions", options, stamp_of([self._table]), lambda _: {"starts": line_starts(self._table, 0)})
        if not len(self._index["starts"]):
            raise UserError(f"folder_regions: {self._table} is empty; write one JSON object a line into it.")
        self._chosen = spread(len(self._index["starts"]), max_samples)

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
        image, mask = self._view(row, "image", "mask", sample)
        caption = row.get("caption")
        if caption is not None and not (isinstance(caption, str) and caption.strip()):
            raise BadSample("blank caption", sample)
        caption = caption.strip() if caption else None
        if "image2" not in row:
            return Region(id=sample, image=image, mask=mask, caption=caption)
        image2, mask2 = self._view(row, "image2", "mask2", sample)
        return Region(id=sample, image=image, mask=mask, caption=caption, image2=image2, mask2=mask2)

    def _view(self, row: dict[str, Any], image_key: str, mask_key: str, sample: str) -> tuple[np.ndarray, np.ndarray]:
        """[H, W, 3] uint8 and [H, W] bool."""
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
