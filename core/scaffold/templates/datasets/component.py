"""A folder of ``NAME.png`` with the mask ``NAME.mask.png`` and, where there is one, the description ``NAME.txt``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from core.contracts import BadSample, Region, UserError
from PIL import Image


class TemplateName:
    """One region for each mask; its id is NAME.

    What may be added: ``draw`` (another sample at each visit) and ``images`` (grouped by picture), see ``core.contracts.optional``.
    """

    def __init__(self, *, root: Path, max_samples: int | None = None) -> None:
        """Raises ``UserError`` where there is no mask. No picture is opened here."""
        if max_samples is not None and max_samples < 1:
            raise ValueError(f"max_samples must be at least 1, not {max_samples}.")
        root = root.expanduser()
        if not root.is_dir():
            raise UserError(f"template_name: there is no folder {root}; set root to the folder of NAME.png and NAME.mask.png.")
        self.root = root
        self._names = sorted(path.name.removesuffix(".mask.png") for path in root.glob("*.mask.png"))[:max_samples]
        if not self._names:
            raise UserError(f"template_name: there is no *.mask.png in {root}; check root.")

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Region:
        name = self._names[index]
        image = self._picture(f"{name}.png", "RGB", name)  # [H, W, 3]
        mask = self._picture(f"{name}.mask.png", "L", name) > 127  # [H, W]
        if mask.shape != image.shape[:2]:
            raise BadSample("mask and picture differ in size", name)
        if not mask.any():
            raise BadSample("empty mask", name)
        return Region(id=name, image=image, mask=mask, caption=self._caption(name))

    def _picture(self, file: str, mode: str, name: str) -> np.ndarray:
        try:
            with Image.open(self.root / file, formats=("PNG",)) as picture:
                return np.array(picture.convert(mode))
        except (OSError, ValueError, SyntaxError) as fault:
            raise BadSample("damaged or missing picture", name, str(fault)) from fault

    def _caption(self, name: str) -> str | None:
        file = self.root / f"{name}.txt"
        try:
            return (file.read_text(encoding="utf-8").strip() or None) if file.is_file() else None
        except (OSError, UnicodeDecodeError) as fault:
            raise BadSample("damaged description", name, str(fault)) from fault
