"""One region written in every way that people and programs write it: what is read is always that region, to the pixel and the letter.

``DUALLOOP_FUZZ=N`` tries N ways of each format instead of a few, drawn anew each time.
"""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from core.contracts import Region
from plugins.datasets.coco_regions import CocoRegions
from plugins.datasets.folder_regions import FolderRegions
from plugins.datasets.labelme import Labelme
from plugins.datasets.via import Via

MANY = int(os.environ.get("DUALLOOP_FUZZ", "0"))
TRIES = settings(
    max_examples=MANY or 25, derandomize=not MANY, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True
)
CAPTION, CATEGORY = 'une "tasse" é,\n杯子 😀 \\ Ã©', "Gerät ½"
TRUTH = np.pad(np.ones((5, 7), bool), ((3, 12), (2, 21)))  # [20, 30]
POLYGON = [2, 3, 9, 3, 9, 8, 2, 8]
NAMES = ("plain.png", "a b é.png", "100%.png", "杯.png")
CODECS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture and its mask under several names, in a folder and below it; another picture, which is not meant."""
    root = tmp_path_factory.mktemp("varied") / "pictures"
    (root / "sub").mkdir(parents=True)
    grey = np.where(TRUTH, 200, 50).astype(np.uint8)
    for name in NAMES:
        for place in (root, root / "sub"):
            Image.fromarray(grey).save(place / unicodedata.normalize("NFC", name))
            Image.fromarray(TRUTH).save(place / f"mask {name}")
    Image.new("L", (30, 20)).save(root / "other.png")
    return root


@st.composite
def names(draw: st.DrawFn, before: str = "") -> str:
    """A picture's name as this or that system writes it."""
    name = before + draw(st.sampled_from(["", "sub/", "./", "sub/./"])) + draw(st.sampled_from(NAMES))
    name = unicodedata.normalize(draw(st.sampled_from(["NFC", "NFD"])), name)
    if "%" not in name and draw(st.booleans()):
        name = name.replace(" ", "%20").replace("é", "%C3%A9")
    return name.replace("/", "\\") if draw(st.booleans()) else name


@st.composite
def texts(draw: st.DrawFn, value: Any) -> bytes:
    """JSON of a value in any arrangement and encoding."""
    text = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 0, 2, "\t"])))
    text = text.replace("\n", draw(st.sampled_from(["\n", "\r\n"])))
    return (draw(st.sampled_from(["", "\n", "  "])) + text + draw(st.sampled_from(["", "\n"]))).encode(draw(st.sampled_from(CODECS)))


@st.composite
def segmentations(draw: st.DrawFn) -> Any:
    """The mask as polygons or run lengths."""
    compressed = coco.encode(np.asfortranarray(TRUTH, dtype=np.uint8))["counts"]
    edges = np.flatnonzero(np.diff(TRUTH.ravel(order="F"))) + 1
    runs = np.diff(np.concatenate([[0], edges, [TRUTH.size]])).tolist()
    points = np.reshape(POLYGON, (-1, 2)).tolist()
    left, right = [2, 3, 6, 3, 6, 8, 2, 8], [6, 3, 9, 3, 9, 8, 6, 8]
    size = draw(st.sampled_from([[20, 30], [20.0, 30.0], (20, 30)]))
    one = {"size": size, "counts": draw(st.sampled_from([compressed.decode(), str(compressed), runs, [float(run) for run in runs]]))}
    polygons = [POLYGON, [POLYGON], [points], points, [[str(value) for value in POLYGON]], [[*POLYGON, *POLYGON[:2]]], [left, right]]
    polygons += [[POLYGON, []], [POLYGON, [1, 1, 2, 2]], [[float(value) for value in POLYGON]]]
    return draw(st.sampled_from([*polygons, one, [one], [one, one]]))


def same(region: Region, caption: str | None = CAPTION, category: str | None = CATEGORY) -> None:
    np.testing.assert_array_equal(region.mask, TRUTH)
    assert region.image[3, 2, 0] == 200
    assert (region.caption, region.category) == (caption, category)


@TRIES
@given(st.data())
def test_coco_files(folder: Path, data: st.DataObject) -> None:
    draw = data.draw
    ids = st.sampled_from([0, 1, "1", 7.0, 2**128 + 1, "ä/1", "6b1f6f0e-8a65"])
    image, category = draw(ids), draw(ids)
    sizes = [{"width": 30, "height": 20}, {"width": "30", "height": 20.0}, {"width": None, "height": None}, {}, {"width": 0, "height": 0}]
    url = draw(st.sampled_from(["", "", "", "/home/me/pictures/", "C:\\data\\pictures\\", "http://images.cocodataset.org/pictures/"]))
    name = draw(names()) if not url else url + draw(st.sampled_from(["plain.png", "a b é.png"]))
    first = {"id": image, draw(st.sampled_from(["file_name", "coco_url"])): name, **draw(st.sampled_from(sizes))}
    other = {"id": "other", "file_name": "other.png", "width": 30, "height": 20}
    area = draw(st.sampled_from([35, 35.0, 34.2, 0, None, 600, 30, "35"]))
    box = draw(st.sampled_from([{"bbox": [2, 3, 7, 5]}, {"bbox": [2.0, 3.0, 6.0, 4.0]}, {"bbox": None}, {}]))
    mine = {"id": draw(ids), "image_id": image, "category_id": category, "segmentation": draw(segmentations()), "area": area, **box}
    mine |= draw(st.sampled_from([{"iscrowd": 0}, {"iscrowd": None}, {"iscrowd": "0"}, {"iscrowd": False}, {}]))
    mine |= draw(
        st.sampled_from([{"caption": CAPTION}, {"captions": [CAPTION]}, {"phrases": [CAPTION], "attributes": {"occluded": False}}])
    )
    lost = {"id": "lost", "image_id": "other", "category_id": category, "segmentation": draw(st.sampled_from([None, [], [[]], {}]))}
    lists = {
        "images": draw(st.permutations([first, other, first])),
        "annotations": draw(st.permutations([mine, lost])),
        "categories": draw(st.permutations([{"id": category, "name": CATEGORY}, {"id": "none", "name": None}])),
        "info": {"images": []},
    }
    content = {key: lists[key] for key in draw(st.permutations(list(lists)))}
    file = folder.parent / "file.json"
    file.write_bytes(draw(texts(content)))
    dataset = CocoRegions(annotations=file, images=folder)
    assert len(dataset) == 1
    assert [(left.reason, left.count) for left in dataset.usage()[0].left_out] == [("no mask", 1)]
    same(dataset[0])


@TRIES
@given(st.data())
def test_lines_of_a_folder(folder: Path, data: st.DataObject) -> None:
    draw = data.draw
    row = {"image": draw(names()), "mask": draw(st.sampled_from(["mask plain.png", "sub\\mask plain.png", "sub/mask%20plain.png"]))}
    rows = [row | {"caption": CAPTION, "category": CATEGORY, "id": number} for number in range(draw(st.integers(1, 3)))]
    array = draw(st.booleans())
    if array or len(rows) == 1:
        content = draw(texts(rows if array else rows[0]))
    else:
        line_end, codec = draw(st.sampled_from(["\n", "\r\n", "\n\n", ",\n"])), draw(st.sampled_from(["utf-8", "utf-8-sig"]))
        content = line_end.join(json.dumps(one, ensure_ascii=draw(st.booleans())) for one in rows).encode(codec)
    (folder / "regions.jsonl").write_bytes(content)
    dataset = FolderRegions(root=folder)
    assert [dataset[number].id for number in range(len(dataset))] == [str(one["id"]) for one in rows]
    same(dataset[len(rows) - 1])


@TRIES
@given(st.data())
def test_labelme_files(folder: Path, data: st.DataObject) -> None:
    draw = data.draw
    corners = np.reshape(POLYGON, (-1, 2)).tolist()
    forms = [("polygon", corners), ("rectangle", [corners[0], corners[2]]), ("rectangle", corners), ("rotation", corners), (None, corners)]
    kind, points = draw(st.sampled_from([*forms, ("rectangle", [corners[2], corners[0]])]))
    shape = {
        "label": CATEGORY,
        "points": points,
        "shape_type": kind,
        "description": CAPTION,
        "group_id": draw(st.sampled_from([None, 3, "a"])),
    }
    line = {"label": CATEGORY, "points": corners[:2], "shape_type": "line"}
    sizes = draw(st.sampled_from([{}, {"imageHeight": 20, "imageWidth": 30}, {"imageHeight": None, "imageWidth": None}]))
    (folder / "x.json").unlink(missing_ok=True)
    content = {"shapes": draw(st.permutations([shape, line])), "imagePath": draw(names()), "flags": {}, **sizes}
    (folder / "x.json").write_bytes(draw(texts(content)))
    dataset = Labelme(root=folder)
    assert len(dataset) == 1
    same(dataset[0])


@TRIES
@given(st.data())
def test_via_files(folder: Path, data: st.DataObject) -> None:
    draw = data.draw
    xs, ys = POLYGON[::2], POLYGON[1::2]
    shapes = [{"name": "polygon", "all_points_x": xs, "all_points_y": ys}, {"name": "rect", "x": 2, "y": 3, "width": 7, "height": 5}]
    shapes += [{"name": "polyline", "all_points_x": [*xs, xs[0]], "all_points_y": [*ys, ys[0]]}]
    kind = draw(st.sampled_from([CATEGORY, {CATEGORY: True, "other": False}]))
    region = {"shape_attributes": draw(st.sampled_from(shapes)), "region_attributes": {"kind": kind, "caption": CAPTION}}
    entry = {"filename": draw(names()), "size": 9, "regions": draw(st.sampled_from([[region], {"0": region}])), "file_attributes": {}}
    entries = {"key": entry, "other.png9": {"filename": "other.png", "regions": []}}
    content = draw(st.sampled_from([entries, {"_via_settings": {}, "_via_img_metadata": entries, "_via_attributes": {}}]))
    file = folder.parent / "via.json"
    file.write_bytes(draw(texts(content)))
    dataset = Via(annotations=file, images=folder)
    assert len(dataset) == 1
    same(dataset[0])
