"""Looks of the shapes world: other pixels of the same scenes."""

from __future__ import annotations

import numpy as np
import pytest

from plugins.datasets.shapes.looks import LOOKS
from plugins.datasets.shapes.scene import draw
from plugins.datasets.shapes.world import write_world


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_changes_the_pixels_and_nothing_else(look: str) -> None:
    plain, other = draw((3, 1, 2), 64, frames=2), draw((3, 1, 2), 64, frames=2, look=look)
    assert other.things == plain.things
    assert all(np.array_equal(a, b) for a, b in zip(other.masks, plain.masks, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(other.images, plain.images, strict=True))
    assert all(image.dtype == np.uint8 and image.shape == (64, 64, 3) for image in other.images)
    again = draw((3, 1, 2), 64, frames=2, look=look)
    assert all(np.array_equal(a, b) for a, b in zip(other.images, again.images, strict=True))


def test_dark_and_inverted_are_what_they_say() -> None:
    plain = draw((5, 0, 0), 64).images[0].astype(float)
    assert np.abs(draw((5, 0, 0), 64, look="dark").images[0] - 0.45 * plain).max() <= 1
    assert np.abs(draw((5, 0, 0), 64, look="inverted").images[0] - (255 - plain)).max() <= 1
    assert np.ptp(draw((5, 0, 0), 64, look="grey").images[0], axis=2).max() == 0


def test_an_unknown_look_is_refused_and_writes_nothing(tmp_path) -> None:
    with pytest.raises(ValueError, match="look must be one of dark"):
        write_world(tmp_path / "world", pictures=10, look="drak")
    assert not (tmp_path / "world").exists()


def test_a_world_with_a_look_is_another_world(tmp_path) -> None:
    write_world(tmp_path / "world", pictures=1, size=64, look="dark")
    with pytest.raises(FileExistsError, match="other settings"):
        write_world(tmp_path / "world", pictures=1, size=64)
