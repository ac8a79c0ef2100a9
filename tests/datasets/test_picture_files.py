"""The pictures that a source says it uses are those that it shows."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.contracts import KnowsPictures, StoredPicture
from plugins.datasets import dam
from plugins.datasets.openimages import OpenImages
from plugins.datasets.sa1b import Sa1b
from plugins.datasets.sav import Sav
from plugins.datasets.sav_pairs import SavPairs


def decoded(stored: StoredPicture) -> bytes:
    with stored.file.open("rb") as file:
        file.seek(stored.offset)
        return np.asarray(Image.open(io.BytesIO(file.read(stored.size or -1))).convert("RGB")).tobytes()


@pytest.mark.parametrize(
    "make",
    [
        lambda world, most: Sa1b(root=world / "sa1b", max_samples=most),
        lambda world, most: OpenImages(root=world / "openimages", max_samples=most),
        lambda world, most: dam.sav(root=world / "dam", max_samples=most),
    ],
    ids=["sa1b", "openimages", "dam.sav"],
)
@pytest.mark.parametrize("most", [None, 3])
def test_they_are_the_pictures_of_its_samples(world: Path, make: Callable[[Path, int | None], Any], most: int | None) -> None:
    data = make(world, most)
    assert isinstance(data, KnowsPictures)
    stored = list(data.picture_files())
    assert len(set(stored)) == len(stored)
    assert {decoded(one) for one in stored} == {data[index].image.tobytes() for index in range(len(data))}


def test_a_pair_of_frames_is_its_file(world: Path) -> None:
    data = SavPairs(root=world / "sav", max_samples=2)
    assert len(data) == 2
    assert [str(one.file.relative_to(data.root)) for one in data.picture_files()] == [data[index].id for index in range(2)]


def test_of_videos_the_files_and_of_frames_the_frames(samples: Path) -> None:
    data = Sav(root=samples / "sav")
    shown = {data[index].id.partition("/")[0].removesuffix("_manual") for index in range(len(data))}
    assert {one.file.stem for one in data.picture_files()} == shown


def test_of_unpacked_frames_those_that_are_shown(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(0, 48, 4):
        for folder, name in (("JPEGImages_24fps/v", f"{number:05d}.jpg"), ("Annotations_6fps/v/000", f"{number:05d}.png")):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            pixels = np.full((8, 12), 255, np.uint8) if name.endswith("png") else generator.integers(0, 256, (8, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / name)
    data = Sav(root=tmp_path, distance=2, pairs=1)
    region = data[0]
    assert region.image2 is not None
    assert {decoded(one) for one in data.picture_files()} == {region.image.tobytes(), region.image2.tobytes()}
