"""What one visitor of the demo looks at: a picture or a video, the region that clicks make, and what the models answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil, floor
from pathlib import Path

import numpy as np
from PIL import Image

from core.asking import answers
from core.asking.answers import Answered, Visual
from core.asking.looking import read_region, read_visual
from core.asking.opening import Side
from core.contracts import UserError

FRAMES = 64  # of a video, at most: those of a longer one are evenly spaced
SHOWN = (480, 1280)  # pixels of the longer side as shown, at least and at most; the models get the picture's own
CLICKS = {"a point": 1, "a corner of a box": 2, "a corner of an outline": 200}  # what a click is -> clicks of a region, at most

_ONE_AT_A_TIME = threading.Lock()  # the sides may share one model, and a GPU's memory


@dataclass
class Scene:
    """``region`` is written as for ``ask --region``; ``found`` holds the answers of each side."""

    visual: Visual | None = None
    frame: int = 0
    kind: str = "a point"
    clicks: list[tuple[float, float]] = field(default_factory=list)  # in pixels of the picture
    found: list[list[Answered]] = field(default_factory=list)

    def open(self, path: Path) -> None:
        """Another picture or video. Raises ``UserError``."""
        self.visual, self.frame, self.clicks, self.found = read_visual(path, most=FRAMES), 0, [], []

    @property
    def image(self) -> np.ndarray:
        """[H, W, 3] uint8: the picture, or the frame that is shown. Raises ``UserError`` where there is none."""
        if self.visual is None:
            raise UserError("give a picture or a video first")
        return self.visual[self.frame] if isinstance(self.visual, list) else self.visual

    def click(self, x: float, y: float) -> bool:
        """A click into the picture as it is shown; whether the region is whole. A click after a whole region begins a new one."""
        height, width, _ = self.image.shape
        scale = max(height, width) / self._side()
        if len(self.clicks) >= CLICKS[self.kind]:
            self.clicks = []
        self.clicks.append((min((x + 0.5) * scale, width - 0.5), min((y + 0.5) * scale, height - 0.5)))
        return len(self.clicks) == CLICKS[self.kind]

    @property
    def region(self) -> str:
        """The clicks as one region; empty where they are none yet."""
        if self.kind == "a corner of a box":
            if len(self.clicks) < 2:
                return ""
            across, down = zip(*self.clicks, strict=True)
            numbers: list[float] = [floor(min(across)), floor(min(down)), ceil(max(across)), ceil(max(down))]
        elif len(self.clicks) < (1 if self.kind == "a point" else 3):
            return ""
        else:
            numbers = [number for place in self.clicks for number in place]
        return ",".join(f"{number:.1f}" for number in numbers)

    def masks(self) -> np.ndarray | None:
        """[1, H, W] bool: the region of the clicks; None without one."""
        return read_region(self.region, *self.image.shape[:2])[None] if self.region else None

    def describe(self, sides: Sequence[Side], most: int) -> None:
        """Every side's words for the region. Raises ``UserError``."""
        masks = self.masks()
        if masks is None:
            raise UserError("click into the picture first: a point, two corners of a box, or three corners or more of an outline")
        self._each(sides, lambda side: answers.describe(side.model, self.image, masks, [self.region], most))

    def segment(self, sides: Sequence[Side], phrase: str, most: int) -> None:
        """Every side's mask for a phrase, in the picture or in every frame. Raises ``UserError``."""
        visual, phrase = self._ready(phrase, "phrase")
        self._each(sides, lambda side: answers.segment(side.model, visual, [phrase], most))

    def ask(self, sides: Sequence[Side], question: str, most: int) -> None:
        """Every side's answer to a question; the region, if there is one, is region1 in it. Raises ``UserError``."""
        visual, question = self._ready(question, "question")
        masks = None if isinstance(visual, list) else self.masks()
        self._each(sides, lambda side: [answers.ask(side.model, visual, question, masks, most)])

    def _ready(self, words: str, what: str) -> tuple[Visual, str]:
        if self.visual is None:
            raise UserError("give a picture or a video first")
        if not words.strip():
            raise UserError(f"write a {what} first")
        return self.visual, words.strip()

    def _each(self, sides: Sequence[Side], asked: Callable[[Side], list[Answered]]) -> None:
        found = []
        for side in sides:
            with _ONE_AT_A_TIME:
                side.take()
                found.append(asked(side))
        self.found = found  # of all sides or of none

    def _side(self) -> int:
        """The longer side of the picture as shown."""
        return min(max(*self.image.shape[:2], SHOWN[0]), SHOWN[1])

    def shown(self, side: int | None = None) -> np.ndarray:
        """[h, w, 3] uint8, the longer side within ``SHOWN``: the picture with the region's edge, and the masks of a side."""
        image, masks = self.image, []
        for answer in self.found[side] if side is not None and side < len(self.found) else []:
            masks += [mask[self.frame] if mask.ndim == 3 else mask for mask in answer.masks]
        regions = [] if (region := self.masks()) is None else list(region)
        dots = [read_region(f"{x},{y}", *image.shape[:2]) for x, y in self.clicks] if not regions and side is None else []
        drawn = answers.outline(image, masks, regions + dots)
        scale = self._side() / max(drawn.size)
        size = [max(1, round(length * scale)) for length in drawn.size]
        return np.asarray(drawn.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST))

    def text(self, side: int) -> str:
        """What a side answered, with the share of the picture that its masks cover."""
        lines = []
        for answer in self.found[side] if side < len(self.found) else []:
            lines.append(answer.text)
            what = "video" if isinstance(self.visual, list) and answer.masks and answer.masks[0].ndim == 3 else "picture"
            lines += [f"mask {number}: {mask.mean():.1%} of the {what}" for number, mask in enumerate(answer.masks, 1)]
        return "\n".join(lines)
