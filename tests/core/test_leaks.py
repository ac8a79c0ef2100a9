"""Pictures that are trained on and evaluated on are the same if their bytes are; numbers count between published data sets alone."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.contracts import Dataset, KnowsPictures, StoredPicture
from core.preflight.data import Drawn
from core.preflight.leaks import leaks
from plugins.datasets import dam
from plugins.datasets.coco_regions import CocoRegions
from plugins.datasets.concat import Concat
from plugins.datasets.filter import Filter
from plugins.datasets.repeat import Repeat

SQUARE = [[2, 2, 6, 2, 6, 6, 2, 6]]


def export(root: Path, name: str, pictures: Iterable[str], first: int = 1, absent: Iterable[str] = ()) -> CocoRegions:
    """A COCO file of these pictures, each of its own content, which counts them from ``first``."""
    for picture in pictures:
        noise = np.random.default_rng(list(picture.encode())).integers(0, 255, (10, 20, 3), np.uint8)
        Image.fromarray(noise).save(root / picture, compress_level=0)  # so that all files have one size
    images = [{"id": first + row, "file_name": picture, "width": 20, "height": 10} for row, picture in enumerate([*pictures, *absent])]
    annotations = [{"id": 2 * one["id"] + row, "image_id": one["id"], "segmentation": SQUARE} for one in images for row in (0, 1)]
    (root / name).write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return CocoRegions(annotations=root / name, images=root)


def told(test: Dataset, *trained: Dataset, seconds: float = 60.0) -> list[tuple[str, str]]:
    drawn = [Drawn(("loops", str(number)), data) for number, data in enumerate(trained)] + [Drawn(("evaluate", "x"), test)]
    return [(finding.status, finding.text) for finding in leaks(drawn, seconds)]


def test_numbers_that_every_export_counts_from_1_say_nothing(tmp_path: Path) -> None:
    train, test = export(tmp_path, "t.json", ["a.png", "b.png", "c.png"]), export(tmp_path, "v.json", ["x.png", "y.png"])
    assert (tmp_path / "a.png").stat().st_size == (tmp_path / "x.png").stat().st_size
    assert told(test, train) == [("pass", "none of its 2 pictures is trained on")]


@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: Repeat(data=data, times=2), lambda data: Concat(data={"a": data}),
                                  lambda data: Filter(data=data, min_share=0)])  # fmt: skip
def test_the_same_pictures_under_other_numbers_and_names_are_found(tmp_path: Path, wrap: Any) -> None:
    train = export(tmp_path, "t.json", ["a.png", "b.png", "c.png"])
    (tmp_path / "other").mkdir()
    test = export(tmp_path / "other", "v.json", ["a.png", "new.png"], first=70)
    (tmp_path / "other/a.png").rename(tmp_path / "other/renamed.png")
    content = (tmp_path / "other/v.json").read_text().replace("a.png", "renamed.png")
    (tmp_path / "other/v.json").write_text(content)
    test = CocoRegions(annotations=tmp_path / "other/v.json", images=tmp_path / "other")
    assert isinstance(wrap(train), KnowsPictures)
    assert told(wrap(test), wrap(train)) == [("warn", "1 of its 2 pictures are also in loops.0, such as renamed.png")]
    (tmp_path / "other/new.png").write_bytes((tmp_path / "b.png").read_bytes())
    assert told(test, train) == [("fail", "2 of its 2 pictures are also in loops.0, such as new.png")]


def test_pictures_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    train, test = export(tmp_path, "t.json", ["a.png"], absent=["no.png"]), export(tmp_path, "v.json", ["b.png"], absent=["no.png"])
    assert told(test, train) == [("pass", "none of its 1 pictures is trained on")]


class _Files:
    def __init__(self, *pictures: StoredPicture) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def picture_files(self) -> Iterator[StoredPicture]:
        return iter(self.pictures)


def test_files_that_differ_in_their_middle_are_two(tmp_path: Path) -> None:
    """As pictures without compression do that have one border."""
    data = bytes(100_000)
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b").write_bytes(data[:50_000] + b"x" + data[50_001:])
    (tmp_path / "c").write_bytes(b"..." + data)
    a, b, c = (StoredPicture(tmp_path / name) for name in "abc")
    assert told(_Files(a), _Files(b)) == [("pass", "none of its 1 pictures is trained on")]
    part = c._replace(offset=3)
    assert told(_Files(a, b), _Files(part)) == [("warn", "1 of its 2 pictures are also in loops.0, such as a")]
    assert told(_Files(a), _Files(c._replace(offset=3, size=100_000))) == [("fail", "1 of its 1 pictures are also in loops.0, such as a")]


def test_too_little_time_is_told(tmp_path: Path) -> None:
    train, test = export(tmp_path, "t.json", ["a.png"]), export(tmp_path, "v.json", ["b.png"])
    assert [status for status, _ in told(test, train, seconds=-1)] == ["warn"]


def test_members_of_tars_are_compared_too(world: Path, tmp_path: Path) -> None:
    data = dam.lvis(root=world / "dam")
    members = list(data.picture_files())
    assert len(members) == len(data.images())
    with tarfile.open(members[0].file) as tar:
        sizes = {entry.offset_data: entry.size for entry in tar}
    assert all(sizes[one.offset] == one.size for one in members if one.file == members[0].file)
    one = members[0]
    with one.file.open("rb") as file:
        file.seek(one.offset)
        (tmp_path / "mine.jpg").write_bytes(file.read(one.size))
    width, height = Image.open(tmp_path / "mine.jpg").size
    images = [{"id": 1, "file_name": "mine.jpg", "width": width, "height": height}]
    (tmp_path / "v.json").write_text(json.dumps({"images": images, "annotations": [{"id": 1, "image_id": 1, "segmentation": SQUARE}]}))
    mine = CocoRegions(annotations=tmp_path / "v.json", images=tmp_path)
    assert told(mine, data) == [("fail", "1 of its 1 pictures are also in loops.0, such as mine.jpg")]
