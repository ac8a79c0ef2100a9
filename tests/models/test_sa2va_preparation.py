"""``resize: fast``: the same pictures, nearly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from core.contracts import Region
from plugins.models.sa2va.backends.internvl_pictures import TiledPictures
from plugins.models.sa2va.pixels import resized
from plugins.models.sa2va.preparation import Sa2vaPreparation


def picture(height: int, width: int) -> np.ndarray:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    return np.array(noise.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("size", [(640, 480), (500, 700), (300, 200), (90, 1200)])
def test_fast_resizing_differs_by_a_step_here_and_there(size: tuple[int, int]) -> None:
    image = picture(*size)
    for width, height in ((448, 448), (1024, 1024), (896, 448)):
        exact, fast = resized(image, width, height), resized(image, width, height, fast=True)
        assert exact.shape == fast.shape == (height, width, 3)
        assert fast.dtype == np.uint8
        difference = np.abs(exact.astype(int) - fast)
        assert difference.max() <= 2
        assert (difference > 1).mean() < 0.001
        assert (difference > 0).mean() < 0.1  # at scales near 1, else below 0.01


def test_a_picture_that_is_turned_or_read_only_is_resized_too() -> None:
    image = picture(60, 80)
    turned = image[::-1, :, ::-1]
    image.flags.writeable = False
    for one in (image, turned, image.transpose(1, 0, 2)):
        np.testing.assert_allclose(resized(one, 40, 40, fast=True).astype(int), resized(np.ascontiguousarray(one), 40, 40), atol=2)


def test_the_preparation_s_pictures_follow_the_option() -> None:
    image, mask = picture(240, 480), np.ones((240, 480), bool)
    region = Region("x", image, mask, image2=image[:, ::-1], mask2=mask)
    exact, fast = (Sa2vaPreparation(TiledPictures(56, 4, 12), 128, fast)(region) for fast in (False, True))
    for view, name in itertools.product(("view1", "view2"), ("tiles", "sam")):
        one, other = getattr(getattr(exact, view), name), getattr(getattr(fast, view), name)
        assert one.shape == other.shape
        assert 0 < np.abs(one.astype(int) - other).max() <= 2
    np.testing.assert_array_equal(exact.mask1, fast.mask1)
