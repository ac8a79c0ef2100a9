"""The eight ways in which pixels may be stored: EXIF's orientation, also of PNG, WebP, TIFF and AVIF, and a video's display matrix."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from PIL import Image

from core.pixels.files import Tell, silent

#: ``shown``: as every viewer shows the picture; ``stored``: as its pixels stand in the file.
Orientation: TypeAlias = Literal["shown", "stored"]
_TAG = 0x0112
_CARRIERS = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")  # keys of Pillow's ``info`` that may hold an orientation
#: (a, b, c, d) of a display matrix -> the orientation that it means: a pixel (x, y) is shown at (a x + c y, b x + d y).
MATRICES = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}


def turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """[H, W, ...] as stored -> as shown; [W, H, ...] for orientations from 5 on. Contiguous."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def back(orientation: int) -> int:
    """The orientation that undoes this one."""
    return {6: 8, 8: 6}.get(orientation, orientation)


def orientation_of(picture: Image.Image, tell: Tell = silent) -> int:
    """1 to 8; 1 where the file says nothing, or nothing that is one. Costs nothing where the file carries no such data."""
    if turns_itself(picture):
        found = getattr(picture, "tag_v2", {}).get(_TAG)
    elif any(key in picture.info for key in _CARRIERS):
        try:
            found = picture.getexif().get(_TAG)
        except Exception:  # whatever Pillow meets in damaged data; viewers show such pictures as they are stored
            tell("EXIF data that cannot be read: taken as stored")
            return 1
    else:
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def shown_size(picture: Image.Image, orientation: int) -> tuple[int, int]:
    """(height, width) as shown, before the picture is decoded."""
    width, height = picture.size
    return (width, height) if orientation >= 5 and not turns_itself(picture) else (height, width)


def turns_itself(picture: Image.Image) -> bool:
    """Whether Pillow turns it while it decodes, and gives its size as shown."""
    return picture.format == "TIFF"
