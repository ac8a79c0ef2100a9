from __future__ import annotations

from pathlib import Path

import numpy as np
from core.testing import DatasetKit
from PIL import Image

from mask_folder import MaskFolder


class TestMaskFolder(DatasetKit):
    def write(self, root: Path) -> None:
        for name, grey in (("day", 200), ("night", 20)):
            labels = np.zeros((12, 16), np.uint8)
            labels[2:6, 1:5], labels[7:11, 8:14] = 1, 2
            Image.new("RGB", (16, 12), (grey, grey, grey)).save(root / f"{name}.png")
            Image.fromarray(labels).save(root / f"{name}.labels.png")
            (root / f"{name}.txt").write_text("the square above\n\n", encoding="utf-8")

    def make(self, root: Path) -> MaskFolder:
        return MaskFolder(root=root)
