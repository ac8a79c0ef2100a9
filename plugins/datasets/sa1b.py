"""SA-1B: ``sa_{id}.jpg`` beside ``sa_{id}.json``, or split into ``img/`` and ``js/``; one region for each annotation.

Format: segment-anything's README, "Dataset". The index is made from the JSON files alone; no picture is opened for it.
"""

from __future__ import annotations

import json
import random
from array import array
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from core.contracts import BadSample, Count, Region, UserError, Within
from plugins.datasets import _rle
from plugins.datasets._build import listing, over_files
from plugins.datasets._cache import cached, pack, stamp_of
from plugins.datasets._index import STAMPED, check_draft, existing_folder, read_view, spread


class Sa1b:
    """Regions without captions; ids are ``{json path without suffix}/{annotation id}``."""

    def __init__(
        self, *, root: Path, max_samples: Count | None = None, min_area: Annotated[int, Within(0)] = 1, draft: Count | None = None
    ) -> None:
        """``min_area`` in pixels. With fewer ``max_samples`` than pictures only so many JSON files are read, and each
        gives one region. ``draft``: see ``docs/data.md``. Raises ``UserError`` where no annotation is large enough."""
        self.draft = check_draft(draft)
        if min_area < 0:
            raise ValueError(f"min_area must not be negative, not {min_area}.")
        self.root = existing_folder(root, "sa1b", "sa_*.jpg and sa_*.json")
        found = listing("sa1b", self.root, "sa_", ".json")
        chosen = spread(found.count("name"), max_samples)
        one_each = max_samples is not None and len(chosen) == max_samples
        files = [found.text("name", row) for row in chosen]
        options = {"root": self.root.resolve(), "min_area": min_area, "one_each": one_each}

        def build(folder: Path) -> dict[str, np.ndarray]:
            return pack("name", files) | {"rows": over_files("sa1b", partial(_positions, self.root, min_area), files, folder, 1)}

        self._index = cached("sa1b", options, stamp_of(self.root / name for name in files), build)
        rows = self._index["rows"]  # [n, 2] int32: file, position in it
        if not len(rows):
            raise UserError(f"sa1b: no sa_*.json under {self.root} has a mask of at least {min_area} pixels; check root and min_area.")
        self._chosen: Sequence[int] = _one_of_each(rows[:, 0]) if one_each else spread(len(rows), max_samples)

    def its_files(self) -> list[Path]:
        """Of many files some, spread over all."""
        return [self.root / self._index.text("name", row) for row in spread(self._index.count("name"), STAMPED)]

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Region:
        file, position = (int(value) for value in self._index["rows"][self._chosen[index]])
        json_name = self._index.text("name", file)
        name = json_name.removesuffix(".json")
        try:
            annotation = _annotations(self.root / json_name)[position]
            sample = f"{name}/{annotation['id']}"
            rle, area = annotation["segmentation"], annotation["area"]
        except (OSError, ValueError, RecursionError, KeyError, IndexError, TypeError) as fault:
            raise BadSample("damaged annotation", f"{name}/#{position}", str(fault)) from fault
        if (found := _rle.area(rle, sample)) != area:
            raise BadSample("damaged mask", sample, f"{found} pixels where the file says {area}")
        if not found:
            raise BadSample("empty mask", sample)
        image, factor = read_view(self._picture(name), sample, tuple(rle["size"]), self.draft)  # [H, W, 3]
        mask = _rle.decode(rle, sample, factor)  # [H, W]
        return Region(id=sample, image=image, mask=mask)

    def _picture(self, name: str) -> Path:
        beside = self.root / f"{name}.jpg"
        apart = beside.parent.parent / "img" / beside.name
        return apart if beside.parent.name == "js" and not beside.exists() else beside


def _annotations(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_bytes())["annotations"]


def _positions(root: Path, min_area: int, names: tuple[str, ...]) -> np.ndarray:
    """[m, 2] int32 file and place of the usable annotations; a damaged file keeps one place, so that it is met and counted."""
    rows = []
    for file, name in enumerate(names):
        try:
            rows += [(file, i) for i, annotation in enumerate(_annotations(root / name)) if annotation["area"] >= min_area]
        except (OSError, ValueError, RecursionError, KeyError, TypeError):
            rows.append((file, 0))
    return np.array(rows, np.int32).reshape(-1, 2)


def _one_of_each(files: np.ndarray) -> Sequence[int]:
    """One drawn row of each file; ``files`` [n] increases."""
    _, first, counts = np.unique(files, return_index=True, return_counts=True)
    draw = random.Random(0)
    return array("q", (int(begin) + draw.randrange(int(count)) for begin, count in zip(first, counts, strict=True)))
