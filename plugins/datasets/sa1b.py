"""SA-1B: ``sa_{id}.jpg`` beside ``sa_{id}.json``, or split into ``img/`` and ``js/``; one region for each annotation.

Format: segment-anything's README, "Dataset". The index is made from the JSON files alone; no picture is opened for it.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np

from core.contracts import BadSample, Region, UserError
from plugins.datasets import _rle
from plugins.datasets._index import existing_folder, read_picture, spread


class Sa1b:
    """Regions without captions; ids are ``{json path without suffix}/{annotation id}``."""

    def __init__(self, *, root: Path, max_samples: int | None = None, min_area: int = 1) -> None:
        """``min_area`` in pixels. With fewer ``max_samples`` than pictures only so many JSON files are read, and each
        gives one region. Raises ``UserError`` where no annotation is large enough."""
        if min_area < 0:
            raise ValueError(f"min_area must not be negative, not {min_area}.")
        self.root = existing_folder(root, "sa1b", "sa_*.jpg and sa_*.json")
        found = sorted(
            os.path.relpath(os.path.join(folder, name), self.root).replace(os.sep, "/")
            for folder, _, names in os.walk(self.root)
            for name in names
            if name.startswith("sa_") and name.endswith(".json")
        )
        self._files = [found[i] for i in spread(len(found), max_samples)]
        positions = [self._positions(name, min_area) for name in self._files]
        if max_samples is not None and len(self._files) == max_samples:
            draw = random.Random(0)
            positions = [[draw.choice(of_file)] if of_file else [] for of_file in positions]
        rows = [(file, position) for file, of_file in enumerate(positions) for position in of_file]
        if not rows:
            raise UserError(f"sa1b: no sa_*.json under {self.root} has a mask of at least {min_area} pixels; check root and min_area.")
        self._rows = np.array([rows[i] for i in spread(len(rows), max_samples)], dtype=np.int32)  # [n, 2]: file, position in it

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Region:
        file, position = (int(value) for value in self._rows[index])
        name = self._files[file].removesuffix(".json")
        try:
            annotation = _annotations(self.root / self._files[file])[position]
            sample = f"{name}/{annotation['id']}"
            rle, area = annotation["segmentation"], annotation["area"]
        except (OSError, ValueError, RecursionError, KeyError, IndexError, TypeError) as fault:
            raise BadSample("damaged annotation", f"{name}/#{position}", str(fault)) from fault
        mask = _rle.decode(rle, sample)  # [H, W]
        if int(mask.sum()) != area:
            raise BadSample("damaged mask", sample, f"{int(mask.sum())} pixels where the file says {area}")
        if not mask.any():
            raise BadSample("empty mask", sample)
        image = read_picture(self._picture(name), sample)  # [H, W, 3]
        if image.shape[:2] != mask.shape:
            raise BadSample("mask and picture differ in size", sample, f"{mask.shape} and {image.shape[:2]}")
        return Region(id=sample, image=image, mask=mask)

    def _positions(self, name: str, min_area: int) -> list[int]:
        """Places of the usable annotations of a file; a damaged file keeps one place, so that it is met and counted."""
        try:
            return [i for i, annotation in enumerate(_annotations(self.root / name)) if annotation["area"] >= min_area]
        except (OSError, ValueError, RecursionError, KeyError, TypeError):
            return [0]

    def _picture(self, name: str) -> Path:
        beside = self.root / f"{name}.jpg"
        apart = beside.parent.parent / "img" / beside.name
        return apart if beside.parent.name == "js" and not beside.exists() else beside


def _annotations(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_bytes())["annotations"]
