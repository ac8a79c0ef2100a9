"""How the masks of a video are made. Nothing heavy is imported: a recipe is checked with it.

``first`` and ``tuned`` are upstream's way (bytedance/Sa2VA); ``uniform`` and ``original`` are Sa2VA-i's (arXiv:2509.19082, kumuji/Sa2VA-i).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.contracts import UserError

#: Which frames the language model sees, and are decoded with the [SEG] embedding.
Frames = Literal["first", "uniform"]
#: Who carries the masks to the other frames: the trained mask decoder, or one that the memory was trained with.
Propagate = Literal["tuned", "original"]
#: Which SAM 2 a checkpoint holds; ``auto``: what its tensors say.
DecoderVersion = Literal["auto", "sam2.0", "sam2.1"]

SEEN = 5  # frames


@dataclass(frozen=True)
class Video:
    """The choices of a recipe; upstream's by default."""

    frames: Frames = "first"
    propagate: Propagate = "tuned"
    sam2: Path | None = None  # SAM2's own file, with the decoder for ``original``; None: the decoder as it is stored in the base

    def __post_init__(self) -> None:
        if self.sam2 is not None and self.propagate != "original":
            raise UserError(f"sam2: {self.sam2} is read for propagate: original alone; write that too, or leave sam2 out")

    def seen(self, count: int) -> list[int]:
        """Numbers of the frames that the language model sees, of ``count``; in order, each once."""
        if self.frames == "first":
            return list(range(min(SEEN, count)))
        return sorted({place * (count - 1) // (SEEN - 1) for place in range(SEEN)})


UPSTREAM = Video()
