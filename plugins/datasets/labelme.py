"""Folders annotated with labelme or X-AnyLabeling: a JSON file for each picture, with ``shapes`` and ``imagePath``.

Format: labelme's ``label_file.py``. A shape has ``label``, ``points``, ``shape_type`` (polygon, rectangle, rotation, circle, or mask, a PNG
in base64 in the box of its two points), ``group_id`` and ``description``. Shapes of one picture, label and group are one region. The
picture is that of ``imagePath``, else the one beside the JSON file, else what ``imageData`` holds.
"""

from __future__ import annotations

import base64
import math
import posixpath
from pathlib import Path
from typing import Any, Literal

import numpy as np

from core.contracts import BadSample, Count, UserError
from core.pixels import MAX_PIXELS
from plugins.datasets import _recognize
from plugins.datasets._build import watched
from plugins.datasets._cache import cached, stamp_of
from plugins.datasets._drawn import Drawn, Table, Text, box, ellipse
from plugins.datasets._index import existing_folder
from plugins.datasets._json import read_json
from plugins.datasets._listing import listing
from plugins.datasets._names import named_file
from plugins.datasets._pictures import Pictures

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".JPG", ".JPEG", ".PNG")
_FAULTS = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)


class Labelme(Drawn):
    """One region for each shape or group of shapes; ids are ``{json path without suffix}/{number of its first shape}``."""

    recognizes = staticmethod(_recognize.labelme)

    def __init__(
        self,
        *,
        root: Path,
        text: Text = "annotation",
        orientation: Literal["shown", "stored"] = "shown",
        max_samples: Count | None = None,
        max_pixels: Count = MAX_PIXELS,
    ) -> None:
        """``root``: the folder with the JSON files, in it or below. ``text``: the shape's ``description`` (None where it has none), its
        ``label`` (``category``), or nothing. ``orientation``: of EXIF; labelme draws on pictures as they are shown. ``max_pixels`` of a
        picture that is decoded. Raises ``UserError`` where no shape covers anything."""
        root = existing_folder(root, "labelme", "labelme's JSON files")
        found = listing("labelme", root, "", ".json")
        files = [found.text("name", row) for row in range(found.count("name"))]
        stamp = stamp_of(root / name for name in files)
        index = cached("labelme", {"root": root.resolve()}, stamp, lambda _: _build(root, files))
        super().__init__(index, root, root, text, max_samples, Pictures("labelme", orientation=orientation, max_pixels=max_pixels))

    def _source(self, picture: int, sample: str) -> Path | bytes:
        """``imagePath`` from the JSON file's folder on, the picture beside the file, or its bytes in the file."""
        file, name = self._index.text("file", picture), self._index.text("name", picture).replace("\\", "/")
        tried = [posixpath.normpath(posixpath.join(posixpath.dirname(file), name)), *(file[: -len(".json")] + one for one in _SUFFIXES)]
        faults: list[BadSample] = []
        for place in tried:
            try:
                return named_file(self.root, place, sample)
            except BadSample as fault:
                faults.append(fault)
        try:
            data = read_json(self.root / file, "labelme").get("imageData")
            if data:
                return base64.b64decode(data, validate=True)
        except (UserError, *_FAULTS) as fault:
            raise BadSample("damaged picture", sample, f"imageData of {file}: {fault}") from fault
        raise BadSample(faults[0].reason, sample, f"{faults[0].detail}; nor is there one beside {file} or in it")


def _build(root: Path, files: list[str]) -> dict[str, np.ndarray]:
    table = Table("shapes")
    for file, _ in watched("labelme", len(files), ((name, place) for place, name in enumerate(files, start=1))):
        try:
            content = read_json(root / file, "labelme")
            shapes = content["shapes"]
            picture = table.picture(file, str(content.get("imagePath") or ""), content.get("imageHeight"), content.get("imageWidth"))
            assert isinstance(shapes, list)
        except (UserError, AssertionError, *_FAULTS) as fault:
            table.entries += 1
            table.tally.leave("file that is not labelme's", file, str(fault)[:200])
            continue
        _add(table, file, picture, shapes)
    return table.arrays()


def _add(table: Table, file: str, picture: int, shapes: list[Any]) -> None:
    """The shapes of one file; those of a group together."""
    regions: dict[Any, dict[str, Any]] = {}
    for number, shape in enumerate(shapes):
        table.entries += 1
        sample = f"{file[: -len('.json')]}/{number}"
        try:
            drawn = _shape(shape)
            if drawn is None:
                table.tally.leave(f"{str(shape.get('shape_type'))[:20]} without an area", sample)
                continue
            label, group = shape.get("label"), shape.get("group_id")
            key = number if group is None else (str(label), str(group))
            region = regions.setdefault(key, {"sample": sample, "label": label, "caption": "", "polygons": [], "masks": []})
            region["caption"] = region["caption"] or shape.get("description") or ""
            region["masks" if len(drawn) == 3 and isinstance(drawn[0], str) else "polygons"].append(drawn)
        except _FAULTS as fault:
            table.tally.leave("damaged shape", sample, f"{type(fault).__name__}: {fault}"[:200])
    for region in regions.values():
        table.add(picture, region["sample"], {"polygons": region["polygons"], "masks": region["masks"]}, region["label"], region["caption"])


def _shape(shape: dict[str, Any]) -> list[Any] | None:
    """A flat polygon, or (base64, left, top) of a mask; None for what covers nothing. Raises ``_FAULTS``."""
    kind, points = shape.get("shape_type") or "polygon", [(float(x), float(y)) for x, y in shape["points"]]
    if not all(math.isfinite(value) for point in points for value in point):
        raise ValueError("a point is no number")
    if kind == "mask":
        left, top = (round(min(values)) for values in zip(*points, strict=True))
        return [str(shape["mask"]), left, top]
    if kind == "rectangle" and len(points) == 2:
        return box(*points[0], *points[1])
    if kind == "circle":
        (x, y), (edge_x, edge_y) = points
        return ellipse(x, y, *[math.hypot(edge_x - x, edge_y - y)] * 2)
    if kind in ("polygon", "rectangle", "rotation"):
        return [value for point in points for value in point] if len(points) >= 3 else None
    return None
