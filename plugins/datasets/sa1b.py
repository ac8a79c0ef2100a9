"""SA-1B: ``sa_{id}.jpg`` beside ``sa_{id}.json``, or split into ``img/`` and ``js/``; one region for each annotation.

Format: segment-anything's README, "Dataset". The index is made from the JSON files alone; no picture is opened for it. Folders made in
the same way are read too: the JSON names its picture, or is the plain list of masks that SAM's own generator writes; where no file is
called ``sa_*.json``, all JSON files count.
"""

from __future__ import annotations

import json
import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np

from core.contracts import BadSample, Count, Region, StoredPicture, Usage, UserError, Within
from core.pixels import MAX_PIXELS
from plugins.datasets import _recognize, _rle
from plugins.datasets._build import over_files
from plugins.datasets._cache import cached, pack, stamp_of
from plugins.datasets._index import STAMPED, existing_folder, spread
from plugins.datasets._listing import listing
from plugins.datasets._pictures import Pictures
from plugins.datasets._usage import Tally, usage_of_index

_SUFFIXES = (".jpg", ".JPG", ".jpeg", ".JPEG", ".png", ".PNG", ".webp", ".tif", ".tiff", ".bmp")


class Sa1b:
    """Regions without captions; ids are ``{json path without suffix}/{annotation id}``."""

    recognizes = staticmethod(_recognize.sa1b)

    def __init__(
        self,
        *,
        root: Path,
        max_samples: Count | None = None,
        min_area: Annotated[int, Within(0)] = 1,
        orientation: Literal["shown", "stored"] = "shown",
        max_pixels: Count = MAX_PIXELS,
        draft: Count | None = None,
    ) -> None:
        """``min_area`` in pixels. With fewer ``max_samples`` than pictures only so many JSON files are read, and each
        gives one region. ``orientation``: what the masks were drawn on; SA-1B's own pictures carry no EXIF, and SAM's examples read
        those of one's own as they are shown. ``max_pixels`` of a picture. ``draft``: see ``docs/data.md``. Raises ``UserError`` where no
        annotation is large enough."""
        self.pictures = Pictures("sa1b", draft=draft, orientation=orientation, max_pixels=max_pixels)
        if min_area < 0:
            raise ValueError(f"min_area must not be negative, not {min_area}.")
        self.root = existing_folder(root, "sa1b", "sa_*.jpg and sa_*.json")
        found = listing("sa1b", self.root, "sa_", ".json")
        if not found.count("name"):
            found = listing("sa1b", self.root, "", ".json")
        chosen = spread(found.count("name"), max_samples)
        one_each = max_samples is not None and len(chosen) == max_samples
        files = [found.text("name", row) for row in chosen]
        options = {"root": self.root.resolve(), "min_area": min_area, "one_each": one_each, "index": 2}

        def build(folder: Path) -> dict[str, np.ndarray]:
            rows = over_files("sa1b", partial(_positions, self.root, min_area), files, folder, 2)  # [m, 3]: file, position, used
            used = rows[rows[:, 2] == 1]
            tally = Tally("annotations")
            for reason, state in (("smaller than min_area", 0), ("no annotation in the file", 2)):
                small = rows[rows[:, 2] == state]
                for file, position, _ in small[:100].tolist():
                    tally.leave(reason, f"{files[file]}#{position}")
                if len(small) > 100:
                    tally.leave(reason, "", count=len(small) - 100)
            return pack("name", files) | {"rows": used[:, :2]} | tally.arrays(len(rows))

        self._index = cached("sa1b", options, stamp_of(self.root / name for name in files), build)
        rows = self._index["rows"]  # [n, 2] int32: file, position in it
        if not len(rows):
            raise UserError(f"sa1b: no sa_*.json under {self.root} has a mask of at least {min_area} pixels; check root and min_area.")
        self._chosen: Sequence[int] = _one_of_each(rows[:, 0]) if one_each else spread(len(rows), max_samples)

    def its_files(self) -> list[Path]:
        """Of many files some, spread over all."""
        return [self.root / self._index.text("name", row) for row in spread(self._index.count("name"), STAMPED)]

    def picture_files(self) -> Iterator[StoredPicture]:
        """Those that are called as their JSON is; no JSON is read for it."""
        for file in np.unique(self._index["rows"][np.asarray(self._chosen), 0]).tolist():
            place = self._picture(self._index.text("name", file).removesuffix(".json"), None)
            if place.is_file():
                yield StoredPicture(place)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Region:
        file, position = (int(value) for value in self._index["rows"][self._chosen[index]])
        json_name = self._index.text("name", file)
        name = json_name.removesuffix(".json")
        try:
            content = json.loads((self.root / json_name).read_bytes())
            annotation = _annotations(content)[position]
            sample = f"{name}/{annotation.get('id', f'#{position}')}"
            rle, area = annotation["segmentation"], annotation.get("area")
        except (OSError, ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError) as fault:
            raise BadSample("damaged annotation", f"{name}/#{position}", str(fault)) from fault
        found = _rle.area(rle, sample, limit=self.pictures.limit)
        if area is not None and found != area:
            raise BadSample("damaged mask", sample, f"{found} pixels where the file says {area}")
        if not found:
            raise BadSample("empty mask", sample)
        image, factor = self.pictures.view(self._picture(name, content), sample, tuple(rle["size"]))  # [H, W, 3]
        mask = _rle.decode(rle, sample, factor, limit=self.pictures.limit)  # [H, W]
        return Region(id=sample, image=image, mask=mask)

    def usage(self) -> list[Usage]:
        """Of the annotations of the files that were read, and how unusual pictures were."""
        usage = usage_of_index(self._index, len(self._chosen), len(self._index["rows"]))
        return [replace(usage, notes=usage.notes + self.pictures.notes())]

    def _picture(self, name: str, content: Any) -> Path:
        """The file that the JSON names, else one of its own name; beside it, or in ``img/`` beside ``js/``."""
        beside = self.root / f"{name}.jpg"
        folders = [beside.parent]
        if beside.parent.name == "js":
            folders.append(beside.parent.parent / "img")
        image = content.get("image") if isinstance(content, dict) else None
        said = image.get("file_name") if isinstance(image, dict) else None
        names = [PurePosixPath(said).name] if isinstance(said, str) and said and "\0" not in said else []
        names += [beside.stem + suffix for suffix in _SUFFIXES]
        return next((folder / one for one in names for folder in folders if (folder / one).is_file()), folders[0] / names[0])


def _annotations(content: Any) -> list[dict[str, Any]]:
    return content if isinstance(content, list) else content["annotations"]


def _positions(root: Path, min_area: int, names: tuple[str, ...]) -> np.ndarray:
    """[m, 3] int32 file, place of each annotation, and 1 where it is used, 0 where it is too small, 2 where a file has none; a damaged
    file keeps one place, so that it is met and counted."""
    rows = []
    for file, name in enumerate(names):
        try:
            annotations = _annotations(json.loads((root / name).read_bytes()))
            rows += [(file, place, int(_large(one, min_area))) for place, one in enumerate(annotations)] or [(file, 0, 2)]
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
            rows.append((file, 0, 1))
    return np.array(rows, np.int32).reshape(-1, 3)


def _large(annotation: Any, min_area: int) -> bool:
    """Whether it says so; without an area its mask is counted, and what cannot be counted is used, so that it is met."""
    try:
        area = annotation.get("area")
        return bool((_rle.area(annotation["segmentation"], "") if area is None else area) >= min_area)
    except (BadSample, KeyError, TypeError, AttributeError):
        return True


def _one_of_each(files: np.ndarray) -> Sequence[int]:
    """One drawn row of each file; ``files`` [n] increases."""
    _, first, counts = np.unique(files, return_index=True, return_counts=True)
    draw = random.Random(0)
    return array("q", (int(begin) + draw.randrange(int(count)) for begin, count in zip(first, counts, strict=True)))
