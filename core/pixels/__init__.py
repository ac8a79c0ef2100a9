"""Files to pixels, as a person sees them: pictures, masks and the frames of videos. One reader of each for everything that reads any.

Orientation is applied, transparency is what shows, depths beyond 8 bits stay visible, a frame's number counts what is shown. For data
sets and models alike; a component of one's own may use it too.
"""

from __future__ import annotations

from core.pixels.files import MAX_PIXELS, Source, Tell, Unreadable
from core.pixels.masks import Label, MaskKind, check_label, labels_of, mask_of
from core.pixels.pictures import FACTORS, differ, read_picture, rgb_of
from core.pixels.turning import MATRICES, Orientation, orientation_of, turned

__all__ = [
    "FACTORS",
    "MATRICES",
    "MAX_PIXELS",
    "Label",
    "MaskKind",
    "Orientation",
    "Source",
    "Tell",
    "Unreadable",
    "check_label",
    "differ",
    "labels_of",
    "mask_of",
    "orientation_of",
    "read_picture",
    "rgb_of",
    "turned",
]
