"""Projects and exports of the VGG Image Annotator (VIA 1 and 2): JSON with ``_via_img_metadata``, that mapping alone, or CSV.

Format: VIA's own export, ``robots.ox.ac.uk/~vgg/software/via``. A region has ``shape_attributes`` (polygon, polyline, rect, circle,
ellipse, point) and ``region_attributes``, whose names the annotator chose. VIA keeps no sizes: those of the pictures count.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from core.contracts import Count, UserError
from core.pixels import MAX_PIXELS
from plugins.datasets import _recognize
from plugins.datasets._build import watched
from plugins.datasets._cache import cached, stamp_of
from plugins.datasets._drawn import Drawn, Table, Text, box, ellipse
from plugins.datasets._index import existing_file, existing_folder
from plugins.datasets._json import read_json
from plugins.datasets._pictures import Pictures
from plugins.datasets._text import read_text

_FAULTS = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)
_COLUMNS = ("filename", "region_shape_attributes", "region_attributes")
_CAPTIONS = ("caption", "description", "phrase", "text")


class Via(Drawn):
    """One region for each drawn shape that has an area; ids are ``{file name}/{number of the region}``."""

    recognizes = staticmethod(_recognize.via)

    def __init__(
        self,
        *,
        annotations: Path,
        images: Path,
        text: Text = "annotation",
        caption: str | None = None,
        category: str | None = None,
        orientation: Literal["shown", "stored"] = "shown",
        max_samples: Count | None = None,
        max_pixels: Count = MAX_PIXELS,
    ) -> None:
        """``caption``, ``category``: the region attributes that hold them; by default the first of caption, description, phrase and
        text, and the only attribute besides. ``text``: the caption (None where there is none), the category, or nothing. ``orientation``:
        of EXIF; browsers show pictures turned. ``max_pixels`` of a picture that is decoded. Raises ``UserError``."""
        file = existing_file(Path(annotations).expanduser(), "via")
        folder = existing_folder(images, "via", "the pictures of the VIA project")
        options = {"file": file.resolve(), "caption": caption, "category": category}
        index = cached("via", options, stamp_of([file]), lambda _: _build(file, caption, category))
        super().__init__(index, file, folder, text, max_samples, Pictures("via", orientation=orientation, max_pixels=max_pixels))


def _build(file: Path, caption: str | None, category: str | None) -> dict[str, np.ndarray]:
    table = Table("regions")
    regions = list(_of_csv(file) if file.suffix.lower() == ".csv" else _of_json(file))
    names = list(dict.fromkeys(name for _, _, _, attributes in regions if isinstance(attributes, dict) for name in attributes))
    for given in (caption, category):
        if given is not None and given not in names:
            raise UserError(f"via: {file} has no region attribute {given!r}; it has {', '.join(map(repr, names)) or 'none'}.")
    caption = caption or next((name for name in _CAPTIONS if name in names and name != category), None)
    others = [name for name in names if name != caption]
    category = category or (others[0] if len(others) == 1 else None)
    if category is None and len(others) > 1:
        table.tally.notes.append(f"regions have the attributes {', '.join(others)}: set category to the one that names them")
    for (name, number, shape, attributes), _ in watched("via", len(regions), zip(regions, range(1, len(regions) + 1), strict=True)):
        table.entries += 1
        sample = f"{name}/{number}"
        try:
            polygon = _polygon(shape)
            if polygon is None:
                table.tally.leave(f"{str(shape.get('name'))[:20]} without an area", sample)
                continue
            table.add(table.picture("", name), sample, {"polygons": [polygon]}, *(_value(attributes, key) for key in (category, caption)))
        except _FAULTS as fault:
            table.tally.leave("damaged region", sample, f"{type(fault).__name__}: {fault}"[:200])
    return table.arrays()


def _of_json(file: Path) -> Iterator[tuple[str, Any, Any, Any]]:
    """(file name, number, shape, attributes) of each region. Raises ``UserError`` for what is not VIA's."""
    content = read_json(file, "via")
    entries = content.get("_via_img_metadata", content) if isinstance(content, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(one, dict) and "filename" in one for one in entries.values()):
        raise UserError(f"via: {file} is no project or annotations of the VGG Image Annotator (no filename in its entries).")
    seen: dict[str, str] = {}
    for key, entry in entries.items():
        name = str(entry["filename"])
        if name in seen:
            raise UserError(f"via: {file}: the picture {name!r} stands twice, as {seen[name]!r} and as {key!r}; give each its own name.")
        seen[name] = key
        regions = entry.get("regions") or []
        numbered = regions.items() if isinstance(regions, dict) else enumerate(regions)  # VIA 1 has a mapping
        for number, region in numbered:
            inside = region if isinstance(region, dict) else {}
            yield name, number, inside.get("shape_attributes"), inside.get("region_attributes")


def _of_csv(file: Path) -> Iterator[tuple[str, Any, Any, Any]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a polygon of many points is one field
    rows = csv.DictReader(io.StringIO(read_text(file, "via"), newline=""))
    absent = [name for name in _COLUMNS if name not in [(one or "").lstrip("#") for one in rows.fieldnames or ()]]
    if absent:
        raise UserError(f"via: {file} has no column {absent[0]} in its first line; export the annotations as CSV from VIA 2, or as JSON.")
    rows.fieldnames = [(one or "").lstrip("#") for one in rows.fieldnames or ()]  # VIA 1 has #filename
    for line, row in enumerate(rows, start=2):
        shape, attributes = (_parsed(row.get(name)) for name in _COLUMNS[1:])
        if shape != {}:  # a picture without a region
            yield str(row["filename"]), row.get("region_id") or f"line {line}", shape, attributes


def _parsed(text: str | None) -> Any:
    try:
        return json.loads(text or "")
    except (ValueError, RecursionError):
        return None


def _polygon(shape: dict[str, Any]) -> list[float] | None:
    """Flat; None for what covers nothing. Raises ``_FAULTS``."""
    kind = shape["name"]
    if kind in ("polygon", "polyline"):
        points = list(zip(shape["all_points_x"], shape["all_points_y"], strict=True))
        closed = kind == "polygon" or (len(points) > 3 and points[0] == points[-1])
        return [float(value) for point in points for value in point] if closed and len(points) >= 3 else None
    if kind == "rect":
        x, y, width, height = (float(shape[key]) for key in ("x", "y", "width", "height"))
        return box(x, y, x + width, y + height)
    if kind == "circle":
        return ellipse(float(shape["cx"]), float(shape["cy"]), float(shape["r"]), float(shape["r"]))
    if kind == "ellipse":
        x, y, across, down = (float(shape[key]) for key in ("cx", "cy", "rx", "ry"))
        return ellipse(x, y, across, down, float(shape.get("theta", 0)))
    return None


def _value(attributes: Any, key: str | None) -> str:
    """The text of a region attribute; of check boxes those that are ticked."""
    value = attributes.get(key) if key is not None and isinstance(attributes, dict) else None
    if isinstance(value, dict):
        return ", ".join(name for name, ticked in value.items() if ticked)
    return "" if value is None else str(value)
