"""Other looks of the same scenes: what changes between a camera, a season or a scanner and the next, and no word of a caption.

A world with a look has the very things, places and words of the plain world with its seed; only the pixels differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

_WARM = (1.0, 0.72, 0.45)  # of red, green and blue: light of an old lamp
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601

Look = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # [side, side, 3] float of 0..255 -> the same, perhaps beyond


def _blurred(image: np.ndarray) -> np.ndarray:
    """As from a picture of a quarter of the side."""
    side = len(image)
    picture = Image.fromarray(np.clip(np.rint(image), 0, 255).astype(np.uint8))
    small = picture.resize((side // 4, side // 4), Image.Resampling.BILINEAR)
    return np.asarray(small.resize((side, side), Image.Resampling.BILINEAR), dtype=np.float64)


#: name -> what it makes of a finished picture. ``grey`` takes the colours away that captions speak of.
LOOKS: dict[str, Look] = {
    "dark": lambda image, rng: 0.45 * image,
    "pale": lambda image, rng: 0.5 * image + 110,
    "low_contrast": lambda image, rng: 0.3 * image + 0.7 * 128,
    "inverted": lambda image, rng: 255 - image,
    "grey": lambda image, rng: np.repeat(image @ np.array(_LUMA)[:, None], 3, axis=2),  # [side, side, 1] three times
    "tinted": lambda image, rng: image * np.array(_WARM),
    "noise": lambda image, rng: image + rng.normal(0, 28, image.shape),
    "blur": lambda image, rng: _blurred(image),
}


def in_look(image: np.ndarray, look: str, seed: Sequence[int]) -> np.ndarray:
    """[side, side, 3] float of a finished picture in a look; draws of its own, so that the scenes stay those of the seed."""
    return LOOKS[look](image, np.random.default_rng([*seed, 2**32 - 1]))
