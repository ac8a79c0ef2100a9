"""The small language that names the shapes: phrases that fit one thing of a picture only, and descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

SIZES = ("small", "large")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "star")
POSITIONS = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom", "middle": "in the middle"}


@dataclass(frozen=True)
class Words:
    """What can be said of a thing. ``position`` is empty where no word is clearly true."""

    size: str
    colour: str
    shape: str
    position: str
    loosely: frozenset[str]  # all positions that someone might grant it

    @classmethod
    def at(cls, size: str, colour: str, shape: str, x: float, y: float) -> Words:
        """Words of a thing whose centre is at (``x``, ``y``) in the unit square, y downwards."""
        dx, dy = x - 0.5, y - 0.5
        far, near = max(abs(dx), abs(dy)), min(abs(dx), abs(dy))
        position = ""
        if far < 0.09:
            position = "middle"
        elif far > 0.14 and far - near > 0.05:
            horizontal = ("left" if dx < 0 else "right") if abs(dx) > abs(dy) else ""
            position = horizontal or ("top" if dy < 0 else "bottom")
        granted = {"left": dx < -0.08, "right": dx > 0.08, "top": dy < -0.08, "bottom": dy > 0.08, "middle": far < 0.16}
        return cls(size, colour, shape, position, frozenset(word for word, true in granted.items() if true))

    def fits(self, other: Words, said: Sequence[str]) -> bool:
        """Whether the attributes ``said`` of this thing hold of ``other`` too."""
        return all(self.position in other.loosely if name == "position" else getattr(self, name) == getattr(other, name) for name in said)


_FULL = ("size", "colour", "shape", "position")


def ambiguous(words: Sequence[Words]) -> bool:
    """Whether the full phrase of one of the things fits another."""
    return any(one.fits(other, _FULL) for i, one in enumerate(words) for j, other in enumerate(words) if i != j)


def phrase(words: Words, said: Sequence[str] = _FULL) -> str:
    """For example "large red circle on the left"."""
    nouns = [getattr(words, name) for name in ("size", "colour", "shape") if name in said]
    return " ".join([*nouns, POSITIONS[words.position]] if "position" in said else nouns)


def caption(words: Words) -> str:
    """For example "a large red circle on the left"."""
    return f"a {phrase(words)}"


def expressions(index: int, things: Sequence[Words], rng: np.random.Generator) -> list[str]:
    """The full phrase of thing ``index`` and, where there is one, a shortest phrase with colour and shape that fits it alone."""
    others = [one for i, one in enumerate(things) if i != index]
    for count in (0, 1):
        enough = [
            said
            for some in combinations(("size", "position"), count)
            if not any(things[index].fits(other, said := ("colour", "shape", *some)) for other in others)
        ]
        if enough:
            short = phrase(things[index], enough[int(rng.integers(len(enough)))])
            return [phrase(things[index]), f"the {short}" if rng.random() < 0.5 else short]
    return [phrase(things[index])]


def words() -> list[str]:
    """Every word of the language, sorted."""
    spoken = ["a", "the", *SIZES, *COLOURS, *SHAPES, *" ".join(POSITIONS.values()).split()]
    return sorted(set(spoken))
