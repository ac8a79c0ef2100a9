"""``coco_regions`` and ``folder_regions``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.contracts import BadSample, UserError
from plugins.datasets.coco_regions import CocoRegions
from plugins.datasets.folder_regions import FolderRegions


def square(at: int) -> list[list[int]]:
    return [[at, at, at + 4, at, at + 4, at + 4, at, at + 4]]


def coco(root: Path, annotations: list[dict[str, Any]], **more: Any) -> Path:
    (root / "pictures").mkdir(exist_ok=True)
    for name, grey in (("a.png", 50), ("b é.png", 200)):
        Image.new("RGB", (20, 10), (grey, grey, grey)).save(root / "pictures" / name)
    images = [{"id": 7, "file_name": "a.png", "height": 10, "width": 20}, {"id": 9, "file_name": "b é.png", "height": 10, "width": 20}]
    categories = [{"id": 1, "name": "cup"}, {"id": 90, "name": "crème brûlée"}]
    content = {"info": {"x": [1, {"images": []}]}, "annotations": annotations, "images": images, "categories": categories} | more
    (root / "file.json").write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    return root / "file.json"


def annotation(number: int, image: int = 7, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": 90, "segmentation": square(2), "area": 16.0, "iscrowd": 0} | more


def test_texts_each_give_a_region(tmp_path: Path) -> None:
    file = coco(tmp_path, [annotation(1), annotation(2, 9, caption=" une tasse é "), annotation(3, phrases=["left", "it"])])
    dataset = CocoRegions(annotations=file, images=tmp_path / "pictures")
    regions = [dataset[i] for i in range(len(dataset))]
    assert [(region.id, region.caption) for region in regions] == [("1/0", None), ("2/0", "une tasse é"), ("3/0", "left"), ("3/1", "it")]
    assert [int(region.image[0, 0, 0]) for region in regions] == [50, 200, 50, 50]
    assert regions[0].mask[2:6, 2:6].all()
    assert dataset.images() == [[0, 2, 3], [1]]


def test_category_names_crowds_and_no_text(tmp_path: Path) -> None:
    crowd = annotation(4, iscrowd=1, segmentation={"size": [10, 20], "counts": [0, 50, 150]}, area=50)
    file = coco(tmp_path, [annotation(1, caption="x"), crowd])
    options: dict[str, Any] = {"annotations": file, "images": tmp_path / "pictures"}
    assert CocoRegions(**options, text="category")[0].caption == "crème brûlée"
    assert CocoRegions(**options, text="none")[0].caption is None
    assert len(CocoRegions(**options)) == 1
    assert CocoRegions(**options, crowds=True)[1].mask.sum() == 50


def test_categories_and_phrases_without_a_target(tmp_path: Path) -> None:
    none = annotation(3, segmentation=[], area=0, captions=["no cup", "no pan"])
    file = coco(tmp_path, [annotation(1), annotation(2, category_id=5), none, annotation(4, segmentation=[[]])])
    options: dict[str, Any] = {"annotations": file, "images": tmp_path / "pictures"}
    dataset = CocoRegions(**options, empty_masks=True)
    assert [dataset[i].category for i in range(3)] == ["crème brûlée", None, "crème brûlée"]  # 5 is not among the categories
    assert [dataset[i].caption for i in (2, 3)] == ["no cup", "no pan"]
    assert dataset[2].mask.shape == (10, 20)
    assert not dataset[2].mask.any()
    assert [(one.reason, one.count) for one in dataset.usage()[0].left_out] == [("no mask", 1)]  # a polygon without points
    assert [(one.reason, one.count) for one in CocoRegions(**options).usage()[0].left_out] == [("no mask", 2)]  # not asked for


def test_a_line_without_a_target(tmp_path: Path) -> None:
    Image.new("RGB", (64, 32)).save(tmp_path / "a.jpg")
    Image.new("L", (64, 32)).save(tmp_path / "black.png")
    lines = [{"image": "a.jpg", "mask": None, "caption": "the dog"}, {"image": "a.jpg", "mask": "black.png"}, {"image": "a.jpg"}]
    (tmp_path / "regions.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    region = FolderRegions(root=tmp_path, empty_masks=True, draft=16)[0]
    assert region.mask.shape == region.image.shape[:2] == (16, 32)
    assert not region.mask.any()
    for taken, index, reason in ((False, 0, "no target"), (True, 1, "empty mask"), (True, 2, "damaged line")):
        with pytest.raises(BadSample) as fault:
            FolderRegions(root=tmp_path, empty_masks=taken)[index]
        assert fault.value.reason == reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"captions": "a cup"}, "damaged line"),
        ({"captions": []}, "damaged line"),
        ({"captions": ["a cup"], "caption": "a cup"}, "damaged line"),
        ({"captions": ["a cup", 3]}, "damaged line"),
        ({"captions": ["a cup", " "]}, "blank caption"),
        ({"category": 3}, "damaged line"),
        ({"extra": [1]}, "damaged line"),
    ],
)
def test_lines_with_wrong_texts(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    (tmp_path / "regions.jsonl").write_text(json.dumps({"image": "a.png", "mask": "m.png"} | row))
    with pytest.raises(BadSample) as fault:
        FolderRegions(root=tmp_path)[0]
    assert fault.value.reason == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"caption": " "}, "blank caption"),
        ({"segmentation": [[2, 2, 6]]}, "damaged mask"),
        ({"segmentation": {"size": [10, 20], "counts": [200]}, "area": 0}, "empty mask"),
        ({"segmentation": {"size": [10, 20], "counts": [0, 50, 150]}, "area": 900}, "mask is not that of its area and box"),
        ({"segmentation": {"size": [20, 10], "counts": [0, 50, 150]}, "area": 50}, "mask and picture differ in size"),
    ],
)
def test_unusable_annotations(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    dataset = CocoRegions(annotations=coco(tmp_path, [annotation(5, **change)]), images=tmp_path / "pictures")
    with pytest.raises(BadSample) as fault:
        dataset[0]
    assert fault.value.reason == reason


def test_files_that_are_no_coco_file(tmp_path: Path) -> None:
    file = coco(tmp_path, [annotation(1)])
    good = file.read_text(encoding="utf-8")
    for bad in ("", "[]", "{", '{"images": []}', '{"images": [], "annotations": [1]}', "[" * 10**5, good[:-40], '{"images": [],}'):
        file.write_text(bad, encoding="utf-8")
        with pytest.raises(UserError, match=r"file\.json"):
            CocoRegions(annotations=file, images=tmp_path / "pictures")
    coco(tmp_path, [])
    with pytest.raises(UserError, match="no annotation to use"):
        CocoRegions(annotations=file, images=tmp_path / "pictures")


def test_a_picture_outside_its_folder_is_refused(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": "../pictures/a.png", "height": 10, "width": 20}]
    dataset = CocoRegions(annotations=coco(tmp_path, [annotation(1)], images=images), images=tmp_path / "pictures")
    with pytest.raises(BadSample, match="outside the folder"):
        dataset[0]


def test_a_changed_file_is_indexed_anew(tmp_path: Path) -> None:
    file = coco(tmp_path, [annotation(1)])
    assert len(CocoRegions(annotations=file, images=tmp_path / "pictures")) == 1
    coco(tmp_path, [annotation(1), annotation(2)])
    assert len(CocoRegions(annotations=file, images=tmp_path / "pictures")) == 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        Image.new("RGB", (8, 6), (90, 90, 90)).save(tmp_path / f"{name}.jpg")
    mask = np.zeros((6, 8), np.uint8)
    mask[2:4, 3:5] = 1
    Image.fromarray(mask).save(tmp_path / "m.png")
    return tmp_path


def lines(folder: Path, *rows: Any) -> None:
    (folder / "regions.jsonl").write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")


def test_lines_of_a_folder(folder: Path) -> None:
    second = {"image": "b.jpg", "mask": "m.png", "image2": "a.jpg", "mask2": "m.png", "id": "pair"}
    lines(folder, {"image": "a.jpg", "mask": "m.png", "caption": " tasse é "}, "", second)
    dataset = FolderRegions(root=folder)
    assert len(dataset) == 2
    assert (dataset[0].id, dataset[0].caption, int(dataset[0].mask.sum())) == ("a.jpg#0", "tasse é", 4)
    assert dataset[1].id == "pair"
    assert dataset[1].image2 is not None
    assert dataset[1].caption is None


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"mask": "m.png"}, "damaged line"),
        ({"image": "/etc/passwd", "mask": "m.png"}, "picture outside the folder"),
        ({"image": "../a.jpg", "mask": "m.png"}, "picture outside the folder"),
        ({"image": "a.jpg", "mask": "m.png", "caption": ""}, "blank caption"),
        ({"image": "a.jpg", "mask": "absent.png"}, "missing mask"),
        ({"image": "a.jpg", "mask": "small.png"}, "mask and picture differ in size"),
        ({"image": "a.jpg", "mask": "empty.png"}, "empty mask"),
    ],
)
def test_unusable_lines(folder: Path, row: Any, reason: str) -> None:
    Image.new("L", (4, 4), 1).save(folder / "small.png")
    Image.new("L", (8, 6), 0).save(folder / "empty.png")
    lines(folder, row)
    with pytest.raises(BadSample) as fault:
        FolderRegions(root=folder)[0]
    assert fault.value.reason == reason


@pytest.mark.parametrize("bad", ["{", "[" * 10**5, "[1]", "5", "null"])
def test_damaged_lines_among_others_and_alone(folder: Path, bad: str) -> None:
    lines(folder, bad, {"image": "a.jpg", "mask": "m.png"})
    with pytest.raises(BadSample, match="damaged line"):
        FolderRegions(root=folder)[0]
    assert FolderRegions(root=folder)[1].mask.sum() == 4
    (folder / "regions.jsonl").write_text(bad)
    with pytest.raises(UserError, match=r"regions\.jsonl (is neither one JSON object a line|has something else than an object)"):
        FolderRegions(root=folder)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-be"])
@pytest.mark.parametrize("way", ["lines", "windows", "commas", "array", "pretty", "pretty array"])
def test_objects_in_any_arrangement(folder: Path, encoding: str, way: str) -> None:
    rows = [{"image": "a.jpg", "mask": "m.png", "caption": f"a tasse é {number} 😀", "id": number} for number in range(3)]
    one_a_line = [json.dumps(row, ensure_ascii=False) for row in rows]
    text = {
        "lines": "\n".join(one_a_line) + "\n",
        "windows": "\r\n \r\n".join(one_a_line),
        "commas": ",\n".join(one_a_line) + ",",
        "array": json.dumps(rows),
        "pretty": "\n".join(json.dumps(row, indent=2) for row in rows),
        "pretty array": "\n" + json.dumps(rows, indent=1, ensure_ascii=False),
    }[way]
    (folder / "regions.jsonl").write_bytes(text.encode(encoding))
    if way == "commas" and encoding in ("utf-16", "utf-32-be"):
        with pytest.raises(UserError, match="neither one JSON object a line nor an array"):
            FolderRegions(root=folder)
        return
    dataset = FolderRegions(root=folder)
    assert [(dataset[i].id, dataset[i].caption) for i in range(len(dataset))] == [(str(row["id"]), row["caption"]) for row in rows]


def test_a_coco_file_is_no_list_of_lines(folder: Path) -> None:
    for indent in (None, 1):
        (folder / "regions.jsonl").write_text(json.dumps({"images": [], "annotations": []}, indent=indent))
        with pytest.raises(UserError, match="is a COCO file: use coco_regions"):
            FolderRegions(root=folder)


def test_an_empty_or_missing_file(folder: Path) -> None:
    with pytest.raises(UserError, match="missing"):
        FolderRegions(root=folder)
    lines(folder)
    with pytest.raises(UserError, match="is empty"):
        FolderRegions(root=folder)


def test_an_index_that_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines(folder, {"image": "a.jpg", "mask": "m.png"})
    (folder / "file").touch()
    monkeypatch.setitem(os.environ, "DUALLOOP_CACHE", str(folder / "file"))
    with pytest.raises(UserError, match="DUALLOOP_CACHE"):
        FolderRegions(root=folder)
