"""The option ``draft``: JPEGs decoded at a fraction of their size, with masks that fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.contracts import BadSample
from plugins.datasets import _rle, dam
from plugins.datasets._pictures import Pictures
from plugins.datasets.folder_regions import FolderRegions
from plugins.datasets.openimages import OpenImages
from plugins.datasets.refcoco import Refcoco
from plugins.datasets.sa1b import Sa1b

READERS: list[tuple[Any, str, dict[str, Any]]] = [
    (Sa1b, "sa1b", {}),
    (Refcoco, "ref_seg", {"split": "val"}),
    (dam.lvis, "dam", {}),
]


@pytest.mark.parametrize(("reader", "folder", "options"), READERS)
def test_picture_and_mask_shrink_together(world: Path, reader: Any, folder: str, options: dict[str, Any]) -> None:
    full, half = reader(root=world / folder, **options), reader(root=world / folder, **options, draft=48)
    assert len(full) == len(half)
    for index in range(5):
        whole, small = full[index], half[index]
        assert (whole.id, whole.caption) == (small.id, small.caption)
        assert whole.image.shape == (96, 96, 3)
        assert small.image.shape == (48, 48, 3)
        np.testing.assert_array_equal(small.mask, _rle.reduced(whole.mask, 2, "x"))
        blocks = whole.image.reshape(48, 2, 48, 2, 3).mean(axis=(1, 3))
        assert np.abs(blocks - small.image).mean() < 8  # the same picture, though not the same pixels


def test_open_images_follow_the_picture(world: Path) -> None:
    small = OpenImages(root=world / "openimages", draft=24)[0]
    assert small.image.shape[:2] == small.mask.shape == (24, 24)


def test_no_side_falls_below_the_draft(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (203, 101), (10, 200, 30)).save(path)
    expected = {None: (101, 203), 102: (101, 203), 51: (101, 203), 50: (51, 102), 26: (51, 102), 25: (26, 51), 12: (13, 26), 1: (13, 26)}
    for draft, shape in expected.items():
        image = Pictures("x", draft=draft).picture(path, "x")
        assert image.shape[:2] == shape
        assert np.abs(image[0, 0].astype(int) - (10, 200, 30)).max() < 4
        mask = np.ones((101, 203), bool)
        image, factor = Pictures("x", draft=draft).view(path, "x", mask.shape)
        assert image.shape[:2] == _rle.reduced(mask, factor, "x").shape
    with pytest.raises(BadSample, match="differ in size"):
        Pictures("x", draft=50).view(path, "x", (51, 102))
    with pytest.raises(ValueError, match="draft must be at least 1"):
        FolderRegions(root=tmp_path, draft=0)


def test_only_jpegs_are_decoded_so(tmp_path: Path) -> None:
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    assert Pictures("x", draft=10).picture(tmp_path / "a.png", "x").shape == (100, 200, 3)
    Image.new("CMYK", (200, 100)).save(tmp_path / "b.jpg")
    assert Pictures("x", draft=50).view(tmp_path / "b.jpg", "x", (100, 200))[0].shape == (50, 100, 3)


def test_a_mask_too_small_for_the_draft_is_a_bad_sample() -> None:
    mask = np.zeros((64, 64), bool)
    mask[5, 5] = True
    with pytest.raises(BadSample, match="lost at the drafted size"):
        _rle.reduced(mask, 2, "x")
