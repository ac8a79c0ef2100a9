"""Masks as evaluators keep them in their items: COCO's compressed RLE."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as rle

from core.contracts import Item


def encoded(mask: np.ndarray | None) -> Item | None:
    """[H, W] bool -> ``size`` [H, W] and ``counts``."""
    if mask is None:
        return None
    coded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in coded["size"]], "counts": coded["counts"].decode("ascii")}


def decoded(coded: Item | None) -> np.ndarray | None:
    """The reverse: [H, W] bool."""
    return None if coded is None else rle.decode(coded).astype(bool)
