from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from core.contracts import BadSample, UserError
from plugins.datasets.sa1b import Sa1b


@pytest.fixture
def root(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world / "sa1b", tmp_path / "sa1b"))


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    content["annotations"][0].update(changes)
    path.write_text(json.dumps(content))


def test_the_split_layout_reads_the_same(root: Path) -> None:
    beside = Sa1b(root=root)
    first, expected = beside[0].id, [beside[i].mask.sum() for i in range(len(beside))]
    for suffix, folder in ((".jpg", "img"), (".json", "js")):
        (root / folder).mkdir()
        for path in sorted(root.glob(f"sa_*{suffix}")):
            path.rename(root / folder / path.name)
    apart = Sa1b(root=root)
    assert [apart[i].mask.sum() for i in range(len(apart))] == expected
    assert apart[0].id == f"js/{first}"


def test_small_annotations_are_left_out_by_the_json_alone(root: Path) -> None:
    everything = Sa1b(root=root)
    areas = sorted(int(everything[i].mask.sum()) for i in range(len(everything)))
    for path in root.glob("*.jpg"):
        path.unlink()
    assert len(Sa1b(root=root, min_area=areas[2])) == len(areas) - 2
    with pytest.raises(UserError, match="at least 99999"):
        Sa1b(root=root, min_area=99_999)
    with pytest.raises(ValueError, match="min_area"):
        Sa1b(root=root, min_area=-1)


def test_few_samples_come_from_different_pictures(root: Path) -> None:
    dataset = Sa1b(root=root, max_samples=2)
    assert len({dataset[i].id.split("/")[0] for i in range(2)}) == 2


def test_an_area_that_disagrees_shows_a_damaged_mask(root: Path) -> None:
    dataset = Sa1b(root=root)
    edit(root / "sa_1.json", area=7)
    with pytest.raises(BadSample, match="damaged mask"):
        dataset[0]


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"annotations": 3}', "[" * 100_000, '{"annotations": [{"area": 5}]}'])
def test_a_damaged_json_is_met_as_a_bad_sample(root: Path, content: str) -> None:
    (root / "sa_1.json").write_text(content)
    with pytest.raises(BadSample, match="damaged annotation"):
        Sa1b(root=root)[0]


def test_pictures_missing_cut_or_of_another_size(root: Path) -> None:
    dataset = Sa1b(root=root)
    picture = root / "sa_1.jpg"
    data = picture.read_bytes()
    picture.write_bytes(data[: len(data) // 2])
    with pytest.raises(BadSample, match="damaged picture"):
        dataset[0]
    picture.unlink()
    with pytest.raises(BadSample, match="missing picture"):
        dataset[0]
    picture.write_bytes(data)
    edit(root / "sa_1.json", segmentation={"size": [2, 3], "counts": [1, 5]}, area=5)
    with pytest.raises(BadSample, match="differ in size"):
        dataset[0]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sa_"):
        Sa1b(root=tmp_path)
    with pytest.raises(UserError, match="no folder"):
        Sa1b(root=tmp_path / "absent")
