"""Exact frames of a video by number, with the faults of a file as bad samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.contracts import BadSample
from core.pixels import MAX_PIXELS, Unreadable
from core.pixels.videos import read_frames


def frames(path: Path, wanted: Sequence[int], sample: str) -> list[np.ndarray]:
    """[H, W, 3] uint8 RGB of each frame number in ``wanted``, which increases. Raises ``BadSample``."""
    try:
        return read_frames(path, wanted, MAX_PIXELS)
    except Unreadable as fault:
        if fault.reason == "too large":
            raise BadSample("picture too large", sample, fault.detail) from fault
        reason = "missing frame" if fault.reason == "no such frame in" else f"{fault.reason} video"
        raise BadSample(reason, sample, fault.detail) from fault
