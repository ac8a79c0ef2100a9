"""What several tests of pages share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from browser import browser, chromium
from PIL import Image


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """A page of Chromium."""
    program = chromium()
    if program is None:
        pytest.skip("no Chromium: install Debian's chromium, or name one in CHROMIUM")
    with browser(program, tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A picture of the small model's world: a red circle on the left, a blue square on the right."""
    picture = np.full((128, 128, 3), 190, np.uint8)
    down, across = np.mgrid[:128, :128]
    picture[(across - 34) ** 2 + (down - 64) ** 2 < 24**2] = (215, 40, 40)
    picture[44:90, 76:118] = (40, 70, 215)
    Image.fromarray(picture).save(tmp_path / "scene.png")
    return tmp_path / "scene.png"
