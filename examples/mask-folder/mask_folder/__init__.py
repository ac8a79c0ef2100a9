"""A folder of pictures with label pictures: ``NAME.png``, ``NAME.labels.png`` and the descriptions ``NAME.txt``.

Line N of the text describes the pixels of grey value N; an empty line is a region without a description.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from core.contracts import BadSample, Region, UserError
from PIL import Image


class MaskFolder:
    """One region for each line of text; its id is ``NAME#N``."""

    def __init__(self, *, root: Path) -> None:
        """Reads the texts; raises ``UserError`` where there are none. Pictures are opened when they are asked for."""
        self.root = root.expanduser()
        self._regions: list[tuple[str, int, str]] = []  # (NAME, grey value, description)
        for text in sorted(self.root.glob("*.txt")):
            try:
                lines = text.read_text(encoding="utf-8").splitlines()
            except UnicodeDecodeError as error:
                raise UserError(f"mask_folder: {text} is not UTF-8 text: {error.reason}.") from error
            self._regions += [(text.stem, value, line.strip()) for value, line in enumerate(lines, 1)]
        if not self._regions:
            raise UserError(f"mask_folder: no line of any *.txt in {self.root} describes a region; check root.")

    def __len__(self) -> int:
        return len(self._regions)

    def __getitem__(self, index: int) -> Region:
        name, value, caption = self._regions[index]
        place = f"{name}#{value}"
        try:
            image = np.array(Image.open(self.root / f"{name}.png", formats=["PNG"]).convert("RGB"))  # [H, W, 3]
            labels = np.array(Image.open(self.root / f"{name}.labels.png", formats=["PNG"]).convert("L"))  # [H, W]
        except (OSError, ValueError, SyntaxError) as error:
            raise BadSample("a picture that cannot be read", place, str(error)) from error
        if labels.shape != image.shape[:2] or value not in labels:
            raise BadSample(f"the label picture has another size, or no pixel of value {value}", place)
        return Region(id=place, image=image, mask=labels == value, caption=caption or None)
