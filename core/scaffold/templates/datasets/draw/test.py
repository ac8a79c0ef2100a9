from __future__ import annotations

from pathlib import Path

import numpy as np
from core.testing import DatasetKit
from PIL import Image

from template_name import TemplateName


class TestTemplateName(DatasetKit):
    def write(self, root: Path) -> None:
        for i in range(3):
            mask = np.zeros((16, 16), np.uint8)
            mask[i : i + 6, 2:9] = 255
            Image.fromarray(np.full((16, 16, 3), 40 * i, np.uint8)).save(root / f"picture{i}.png")
            Image.fromarray(mask).save(root / f"picture{i}.mask.png")
            (root / f"picture{i}.txt").write_text(f"square {i}")

    def make(self, root: Path) -> TemplateName:
        return TemplateName(root=root)

    def test_a_draw_changes_the_light_alone(self, sound: Path) -> None:
        plain, drawn = self.make(sound)[1], self.make(sound).draw(1, np.random.default_rng(0))
        assert drawn.id == plain.id
        assert np.array_equal(drawn.mask, plain.mask)
        assert not np.array_equal(drawn.image, plain.image)
