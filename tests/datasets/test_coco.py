"""COCO files as exporters and relatives write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.contracts import BadSample, UserError
from plugins.datasets.coco_regions import CocoRegions

SQUARE = [[2, 2, 6, 2, 6, 6, 2, 6]]
RUNS = {"size": [10, 20], "counts": [22, 4, 6, 4, 6, 4, 6, 4, 144]}


def write(
    root: Path,
    annotations: list[dict[str, Any]],
    images: list[dict[str, Any]] | None = None,
    categories: Any = ({"id": 1, "name": "cup"},),
    encoding: str = "utf-8",
    **more: Any,
) -> Path:
    if not (root / "a.png").exists():
        Image.new("RGB", (20, 10), (50, 50, 50)).save(root / "a.png")
    images = images or [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}]
    content = {"images": images, "annotations": annotations, "categories": list(categories), **more}
    (root / "file.json").write_text(json.dumps(content, indent=0), encoding=encoding)
    return root / "file.json"


def one(number: Any = 1, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 1, "category_id": 1, "segmentation": SQUARE, "area": 16, "iscrowd": 0} | more


def opened(root: Path, *annotations: dict[str, Any], options: dict[str, Any] | None = None, **file: Any) -> CocoRegions:
    return CocoRegions(annotations=write(root, list(annotations), **file), images=root, **(options or {}))


@pytest.mark.parametrize(
    "image",
    [
        {"file_name": None, "coco_url": "http://images.cocodataset.org/val2017/a.png"},  # LVIS v1
        {"file_name": f"{'x' * 8}/../a.png", "path": "a.png"},
        {"file_name": "C:\\Users\\me\\a.png"},
        {"file_name": "/data/upload/1/a.png"},  # Label Studio
        {"path": "a.png"},
        {"file_name": "a.png", "width": "20", "height": 10.0},
        {"file_name": "a.png", "width": None, "height": None},
        {"file_name": "a.png", "width": 0, "height": 0},
        {"file_name": "a.png", "width": -1, "height": "?"},
        {"file_name": "a.png"},
    ],
)
def test_pictures_are_found_and_have_a_size(tmp_path: Path, image: dict[str, Any]) -> None:
    sized = {} if "width" in image or image == {"file_name": "a.png"} else {"width": 20, "height": 10}
    data = opened(tmp_path, one(), one(2, segmentation=RUNS), images=[{"id": 1, **sized, **image}])
    if "/../" in str(image.get("file_name")):
        with pytest.raises(BadSample, match="outside the folder"):
            data[0]
        return
    assert [int(data[i].mask[2:6, 2:6].sum()) for i in range(2)] == [16, 16]
    assert any("have no size" in note for note in data.usage()[0].notes) == (data._index["size"][0] < 1).any()


@pytest.mark.parametrize(
    ("listed", "named"),
    [
        (1, 1),
        ("1", 1),
        (1, "1"),
        (1.0, 1),
        ("a1", "a1"),
        ("ä", "ä"),
        (2**128 + 7, 2**128 + 7),
        ("6b1f6f0e-8a65-4b4e-9d0b-0a2c7d7d7f11",) * 2,
        (0, 0),
        (-3, -3),
    ],
)
def test_ids_of_any_kind(tmp_path: Path, listed: Any, named: Any) -> None:
    image = {"id": listed, "file_name": "a.png", "width": 20, "height": 10}
    data = opened(tmp_path, one(listed, image_id=named, category_id=named), images=[image], categories=[{"id": listed, "name": "cup"}])
    assert (data[0].id, data[0].category) == (f"{listed}/0", "cup")
    assert data.images() == [[0]]


def test_an_annotation_without_an_id_is_named_by_its_place(tmp_path: Path) -> None:
    data = opened(tmp_path, {key: value for key, value in one().items() if key != "id"}, one(None), one(0))
    assert [data[i].id for i in range(3)] == [f"byte {data._index['begin'][i]}/0" for i in range(2)] + ["0/0"]


def test_ids_that_stand_twice_are_refused_with_both_places(tmp_path: Path) -> None:
    a, b = ({"id": 1, "file_name": name, "width": 20, "height": 10} for name in ("a.png", "b.png"))
    with pytest.raises(UserError, match=r"file\.json: the id 1 stands twice in images, at line 3 and at line 9"):
        opened(tmp_path, one(), images=[a, b])
    with pytest.raises(UserError, match="the id '7a' stands twice in annotations, at line"):
        opened(tmp_path, one("7a"), one("7a"))
    with pytest.raises(UserError, match="the id 1 stands twice in annotations"):
        opened(tmp_path, one(1), one("1"))
    with pytest.raises(UserError, match="stands twice in categories"):
        opened(tmp_path, one(), categories=[{"id": 1, "name": "cup"}, {"id": 1, "name": "pan"}])
    same = opened(tmp_path, one(), images=[a, a], categories=[{"id": 1, "name": "cup"}] * 2)  # merged files repeat them
    assert (len(same), same[0].category) == (1, "cup")


def test_what_is_left_out_is_counted_with_reasons(tmp_path: Path) -> None:
    many = [one(1), one(2, segmentation=RUNS, iscrowd=1), one(3, iscrowd="1"), one(4, iscrowd="0"), one(5, segmentation=None)]
    many += [one(6, segmentation=[], bbox=[1, 2, 3, 4]), one(7, image_id=9), one(8, category_id=None), one(9, category_id=3)]
    many += [{key: value for key, value in one(10).items() if key != "segmentation"}, one(11, segmentation=[[]])]
    images = [{"id": number, "file_name": "a.png", "width": 20, "height": 10} for number in (1, 2)]
    data = opened(tmp_path, *many, images=images, options={"text": "category"})
    (usage,) = data.usage()
    assert (usage.of, usage.used, len(data)) == (11, 2, 2)
    assert {(left.reason, left.advice): left.count for left in usage.left_out} == {
        ("crowd", "CVAT marks every brush mask so: crowds: true takes them"): 2,
        ("no mask", ""): 3,
        ("no mask", "a box only"): 1,
        ("picture not in images", ""): 1,
        ("no name in categories", "text: annotation or none takes them"): 2,
    }
    assert [sample for left in usage.left_out for sample, _ in left.examples] == ["2", "3", "5", "10", "11", "6", "7", "8", "9"]
    assert usage.notes == ("1 of 2 pictures have no region",)
    assert len(opened(tmp_path, *many, images=images, options={"crowds": True})) == 6


def test_a_file_with_boxes_only_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"file\.json has no masks: 0 of 2 annotations used; left out: 2 x no mask \(a box only\)"):
        opened(tmp_path, *(one(number, segmentation=[], bbox=[1, 2, 3, 4]) for number in (1, 2)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"id": 5, "annotations": [], "data": {"image": "a.png"}}]', "Label Studio's own JSON: export as COCO"),
        ("[1]", "is a list, no COCO file"),
        ('{"shapes": [], "imagePath": "a.png", "version": "5"}', "labelme's file of one picture: use labelme"),
        ('{"_via_settings": {}, "_via_img_metadata": {}}', "VGG Image Annotator: use via"),
        ('{"images": []}', "'annotations' is missing; it has 'images'"),
        ('{"images": {}, "annotations": []}', "'images' is no list"),
        ('{"images": [3], "annotations": []}', r"images\[0\] \(byte 12\) is no object"),
        ('{"images": [{"file_name": "a"}], "annotations": []}', "a picture has no id"),
        ('{"images": [], "images": [], "annotations": []}', "the key 'images' stands twice"),
        ('{"images": [], "annotations": [', "cut or damaged"),
    ],
)
def test_what_is_no_coco_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(UserError, match=said) as fault:
        CocoRegions(annotations=tmp_path / "file.json", images=tmp_path)
    assert "fetch it again" not in str(fault.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("escapes", [True, False])
def test_texts_of_any_encoding(tmp_path: Path, encoding: str, escapes: bool) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "杯é😀.png")
    images = [{"id": "ä", "file_name": "杯é😀.png", "width": 20, "height": 10}]
    file = write(tmp_path, [one(caption="a crème brûlée 😀", image_id="ä")], images=images, categories=[{"id": 1, "name": "Gerät"}])
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content, ensure_ascii=escapes), encoding=encoding)
    data = CocoRegions(annotations=file, images=tmp_path)
    assert (data[0].caption, data[0].category) == ("a crème brûlée 😀", "Gerät")
    assert CocoRegions(annotations=file, images=tmp_path, text="category")[0].caption == "Gerät"


def test_areas_of_boxes_are_taken_with_a_warning(tmp_path: Path) -> None:
    good, other = one(1, segmentation=RUNS), one(2, segmentation=RUNS, area=200)
    wrong = one(3, segmentation=RUNS, area=77, bbox=[9, 9, 1, 1])
    data = opened(tmp_path, good, other, wrong)
    assert [int(data[i].mask.sum()) for i in range(2)] == [16, 16]
    with pytest.raises(BadSample, match="areas: ignore"):
        data[2]
    assert data.usage()[0].warnings == (
        "2 of 3 run-length masks looked at have another area than the file says: they are compared with their boxes",
    )
    assert CocoRegions(annotations=tmp_path / "file.json", images=tmp_path, areas="ignore")[2].mask.sum() == 16
    assert opened(tmp_path, good).usage()[0].warnings == ()


def test_a_list_of_run_lengths_is_one_mask(tmp_path: Path) -> None:
    second = {"size": [10, 20], "counts": [0, 10, 190]}
    region = opened(tmp_path, one(segmentation=[RUNS, second], area=26))[0]
    assert region.mask.sum() == 26
    assert region.mask[:, 0].all()
    np.testing.assert_array_equal(region.mask[2:6, 2:6], True)


def test_half_a_surrogate_pair_is_a_bad_sample(tmp_path: Path) -> None:
    with pytest.raises(BadSample, match="damaged text"):
        opened(tmp_path, one(caption="\ud83d"))[0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_file_is_known_with_its_pictures(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "images/é b.png")
    image = {"id": 1, "coco_url": "http://images.cocodataset.org/images/%C3%A9 b.png", "width": 20, "height": 10}
    file = write(tmp_path, [one()], images=[image], encoding=encoding)
    [found] = CocoRegions.recognizes(file)
    assert found.keys["annotations"] == file
    assert CocoRegions(**found.keys)[0].mask.sum() == 16
