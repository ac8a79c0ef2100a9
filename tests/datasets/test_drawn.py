"""labelme's folders and the VGG Image Annotator's files."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.contracts import BadSample, UserError
from plugins.datasets._drawn import box, ellipse
from plugins.datasets._recognize import _names
from plugins.datasets.labelme import Labelme
from plugins.datasets.via import Via

SQUARE = [[2, 2], [6, 2], [6, 6], [2, 6]]


def png(array: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def shape(points: Any = SQUARE, label: str = "cup", kind: str = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **more}


def labelme(root: Path, *shapes: dict[str, Any], name: str = "a", **more: Any) -> None:
    content = {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": f"{name}.png", "imageData": None}
    (root / f"{name}.json").write_text(
        json.dumps(content | {"imageHeight": 10, "imageWidth": 20} | more, ensure_ascii=False), encoding="utf-8"
    )


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        Image.new("RGB", (20, 10), (90, 90, 90)).save(tmp_path / f"{name}.png")
    return tmp_path


def test_every_shape_that_covers_something(pictures: Path) -> None:
    mask = np.zeros((4, 5), np.uint8)
    mask[1:, 1:] = 255
    shapes = [
        shape(description=" eine Tasse é "),
        shape([[6, 6], [2, 2]], kind="rectangle"),
        shape(SQUARE, kind="rectangle"),  # X-AnyLabeling's has four corners
        shape(SQUARE, kind="rotation"),
        shape([[10, 5], [10, 8]], "ball", "circle"),
        shape([[12, 3], [16, 6]], "ball", "mask", mask=png(mask)),
        shape([[1, 1], [2, 2]], kind="line"),
        shape([[1, 1]], kind="point"),
        shape([[1, 1], [2, 2], [3, 9]], kind="linestrip"),
        shape([[1, "x"]]),
    ]
    labelme(pictures, *shapes)
    data = Labelme(root=pictures)
    regions = [data[i] for i in range(len(data))]
    assert [region.id for region in regions] == [f"a/{number}" for number in range(6)]
    assert [int(region.mask[2:6, 2:6].sum()) for region in regions[:4]] == [16] * 4
    assert all(region.mask.sum() == 16 for region in regions[:4])
    assert abs(int(regions[4].mask.sum()) - np.pi * 9) < 6
    assert regions[5].mask.sum() == 12
    assert regions[5].mask[4:7, 13:17].all()
    assert [(region.caption, region.category) for region in (regions[0], regions[1])] == [("eine Tasse é", "cup"), (None, "cup")]
    assert Labelme(root=pictures, text="category")[4].caption == "ball"
    assert {left.reason: left.count for left in data.usage()[0].left_out} == {
        "line without an area": 1,
        "point without an area": 1,
        "linestrip without an area": 1,
        "damaged shape": 1,
    }
    assert (data.usage()[0].of, data.usage()[0].unit) == (10, "shapes")


def test_shapes_of_a_group_are_one_region(pictures: Path) -> None:
    second = [[x + 8, y] for x, y in SQUARE]
    labelme(pictures, shape(group_id=1), shape(second, group_id=1), shape(second, "pan", group_id=1), shape(second))
    labelme(pictures, shape(group_id=1), name="b")
    data = Labelme(root=pictures)
    assert [(data[i].id, data[i].category, int(data[i].mask.sum())) for i in range(len(data))] == [
        ("a/0", "cup", 32),
        ("a/2", "pan", 16),
        ("a/3", "cup", 16),
        ("b/0", "cup", 16),
    ]
    assert data.images() == [[0, 1, 2], [3]]
    assert [one.file.name for one in data.picture_files()] == ["a.png", "b.png"]


@pytest.mark.parametrize("place", ["a.png", "..\\pictures\\a.png", "../pictures/a.png", "C:\\work\\nowhere\\other.png", None])
def test_the_picture_is_found_from_the_json_file_on(tmp_path: Path, place: str | None) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "pictures").mkdir()
    beside = place in ("a.png", None) or "nowhere" in str(place)
    Image.new("RGB", (20, 10)).save(tmp_path / ("labels" if beside else "pictures") / "a.png")
    labelme(tmp_path / "labels", shape(), imagePath=place)
    assert Labelme(root=tmp_path)[0].mask.sum() == 16


def test_a_picture_inside_the_file_or_none_at_all(tmp_path: Path) -> None:
    labelme(tmp_path, shape(), imagePath="../../away/a.png", imageData=png(np.full((10, 20, 3), 77, np.uint8)))
    assert Labelme(root=tmp_path)[0].image[0, 0, 0] == 77
    labelme(tmp_path, shape(), imagePath="no.png")
    with pytest.raises(BadSample, match=r"missing picture .*no\.png; nor is there one beside a\.json or in it"):
        Labelme(root=tmp_path)[0]
    labelme(tmp_path, shape(), imageData="%%%")
    with pytest.raises(BadSample, match="damaged picture"):
        Labelme(root=tmp_path)[0]


def test_sizes_that_differ_and_sizes_that_are_missing(pictures: Path) -> None:
    labelme(pictures, shape(), imageHeight=None, imageWidth=None)
    assert Labelme(root=pictures)[0].mask.sum() == 16
    labelme(pictures, shape(), imageHeight=30, imageWidth=30)
    with pytest.raises(BadSample, match="differ in size"):
        Labelme(root=pictures)[0]


def test_other_files_in_the_folder_are_counted(pictures: Path) -> None:
    labelme(pictures, shape())
    (pictures / "coco.json").write_text('{"images": []}')
    (pictures / "cut.json").write_text('{"shapes": [')
    data = Labelme(root=pictures)
    assert len(data) == 1
    (left,) = data.usage()[0].left_out
    assert (left.reason, left.count) == ("file that is not labelme's", 2)
    assert [file for file, _ in left.examples] == ["coco.json", "cut.json"]
    (pictures / "a.json").unlink()
    with pytest.raises(UserError, match="has no region to use: 0 of 2 shapes used"):
        Labelme(root=pictures)


REGIONS = [
    {"name": "polygon", "all_points_x": [2, 6, 6, 2], "all_points_y": [2, 2, 6, 6]},
    {"name": "rect", "x": 2, "y": 2, "width": 4, "height": 4},
    {"name": "circle", "cx": 10, "cy": 5, "r": 3},
    {"name": "ellipse", "cx": 10, "cy": 5, "rx": 4, "ry": 2, "theta": 1.57079632679},
    {"name": "polyline", "all_points_x": [2, 6, 6, 2, 2], "all_points_y": [2, 2, 6, 6, 2]},
    {"name": "polyline", "all_points_x": [2, 6, 6], "all_points_y": [2, 2, 6]},
    {"name": "point", "cx": 1, "cy": 1},
    {"name": "rect", "x": "?", "y": 2, "width": 4, "height": 4},
]


def via(root: Path, way: str, *attributes: dict[str, Any]) -> Path:
    given = [attributes[number % len(attributes)] for number in range(len(REGIONS))] if attributes else [{"kind": "cup"}] * len(REGIONS)
    regions = [{"shape_attributes": one, "region_attributes": more} for one, more in zip(REGIONS, given, strict=True)]
    entry = {"filename": "a.png", "size": 123, "file_attributes": {}}
    if way == "csv":
        lines = [
            "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes",
            'b.png,9,"{}",0,0,"{}","{}"',
        ]
        quoted = [[json.dumps(one[key]).replace('"', '""') for key in ("shape_attributes", "region_attributes")] for one in regions]
        lines += [f'a.png,123,"{{}}",{len(regions)},{row},"{a}","{b}"' for row, (a, b) in enumerate(quoted)]
        (root / "via.csv").write_text("\r\n".join(lines), encoding="utf-8-sig")
        return root / "via.csv"
    entry["regions"] = {str(row): one for row, one in enumerate(regions)} if way == "via 1" else regions  # type: ignore[assignment]
    entries = {"a.png123": entry, "b.png9": {"filename": "b.png", "size": 9, "regions": []}}
    (root / "via.json").write_text(json.dumps({"_via_settings": {}, "_via_img_metadata": entries} if way == "project" else entries))
    return root / "via.json"


@pytest.mark.parametrize("way", ["project", "export", "via 1", "csv"])
def test_every_way_in_which_via_writes(pictures: Path, way: str) -> None:
    data = Via(annotations=via(pictures, way), images=pictures)
    regions = [data[i] for i in range(len(data))]
    assert [region.id for region in regions] == [f"a.png/{number}" for number in range(5)]
    assert [int(region.mask.sum()) for region in (regions[0], regions[1], regions[4])] == [16, 16, 16]
    assert abs(int(regions[2].mask.sum()) - np.pi * 9) < 6
    rows, columns = (np.flatnonzero(regions[3].mask.any(axis)) for axis in (1, 0))
    assert (len(rows), len(columns)) == (8, 4)  # turned: its long axis stands
    assert {region.category for region in regions} == {"cup"}
    assert {left.reason: left.count for left in data.usage()[0].left_out} == {
        "polyline without an area": 1,
        "point without an area": 1,
        "damaged region": 1,
    }


def test_attributes_of_via_become_captions_and_categories(pictures: Path) -> None:
    named = {"caption": "a cup é", "kind": {"cup": True, "pan": False, "blue": True}}
    file = via(pictures, "project", named)
    region = Via(annotations=file, images=pictures)[0]
    assert (region.caption, region.category) == ("a cup é", "cup, blue")
    assert Via(annotations=file, images=pictures, text="category")[0].caption == "cup, blue"
    file = via(pictures, "project", named | {"colour": "red"})
    data = Via(annotations=file, images=pictures)
    assert (data[0].category, data.usage()[0].notes[0]) == (
        None,
        "regions have the attributes kind, colour: set category to the one that names them",
    )
    assert Via(annotations=file, images=pictures, category="colour", caption="kind")[0].category == "red"
    with pytest.raises(UserError, match="no region attribute 'x'; it has 'caption', 'kind', 'colour'"):
        Via(annotations=file, images=pictures, category="x")


def test_what_is_not_via_s(pictures: Path) -> None:
    for name, text, said in (
        ("x.json", "[]", "no project or annotations"),
        ("x.json", '{"a": {"b": 1}}', "no project or annotations"),
        ("x.csv", "a,b\n1,2\n", "no column filename"),
        ("x.json", '{"k": {"filename": "a.png"}, "l": {"filename": "a.png"}}', "'a.png' stands twice, as 'k' and as 'l'"),
    ):
        (pictures / name).write_text(text)
        with pytest.raises(UserError, match=said):
            Via(annotations=pictures / name, images=pictures)


def test_files_are_known_for_what_they_are(pictures: Path) -> None:
    for way in ("project", "export", "csv"):
        [found] = Via.recognizes(via(pictures, way))
        assert Via(**found.keys)[0].mask.sum() == 16
        assert found.keys["images"] == pictures
    labelme(pictures, shape())
    _names.cache_clear()  # it knows a folder as it was a moment ago
    for path in (pictures, pictures / "a.json"):
        [found] = Labelme.recognizes(path)
        assert Labelme(**found.keys)[0].caption == "cup"
    labelme(pictures, shape(description="red"))
    assert Labelme(**Labelme.recognizes(pictures)[0].keys)[0].caption == "red"
    assert not Labelme.recognizes(pictures / "via.json")
    assert not Via.recognizes(pictures / "a.json")


def test_polygons_of_boxes_and_ellipses() -> None:
    assert box(1, 2, 3, 4) == [1, 2, 3, 2, 3, 4, 1, 4]
    points = np.reshape(ellipse(5, 6, 3, 2), (-1, 2)) - (5, 6)
    np.testing.assert_allclose((points / (3, 2)) ** 2 @ np.ones(2), 1.0)
