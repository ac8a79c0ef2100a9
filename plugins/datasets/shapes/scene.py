"""Drawing pictures of coloured shapes on a noisy background, with exact masks of what is visible.

Shapes are polygons in the picture's unit square, rasterised by pycocotools' rule, so that the masks are what a reader
of COCO polygons gets. Everything follows from the seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from plugins.datasets.shapes.grammar import COLOURS, SHAPES, SIZES, Words, ambiguous
from plugins.datasets.shapes.looks import in_look

_RGB = {"red": (205, 35, 35), "green": (35, 155, 50), "blue": (40, 70, 215), "yellow": (240, 220, 50)}
_RGB |= {"purple": (150, 45, 170), "orange": (245, 135, 25)}
_RADIUS = {"small": (0.09, 0.12), "large": (0.17, 0.21)}  # of the circle around the shape, parts of the picture's side


@dataclass(frozen=True)
class Thing:
    """One object: its words, where it is and how it is drawn. Lengths are parts of the picture's side."""

    words: Words
    x: float
    y: float
    radius: float
    tilt: float  # radians
    rgb: tuple[float, float, float]

    def outline(self, side: int) -> list[float]:
        """x0 y0 x1 y1 ... in pixels of a picture with this side, to two decimals as COCO has them."""
        corners = {"circle": 40, "square": 4, "triangle": 3, "star": 10}[self.words.shape]
        start = self.tilt - math.pi / 2 + (math.pi / 4 if self.words.shape == "square" else 0)
        numbers = []
        for i in range(corners):
            reach = self.radius * (0.48 if self.words.shape == "star" and i % 2 else 1) * side
            angle = start + 2 * math.pi * i / corners
            numbers += [round(self.x * side + reach * math.cos(angle), 2), round(self.y * side + reach * math.sin(angle), 2)]
        return numbers


@dataclass(frozen=True)
class Drawing:
    """One scene in one or several frames."""

    things: list[Thing]  # as in the first frame, in the order of painting
    images: list[np.ndarray]  # a frame each: [side, side, 3] uint8 RGB
    masks: list[list[np.ndarray]]  # a frame each, a thing each: [side, side] bool, visible pixels


def rasterise(outline: list[float], side: int) -> np.ndarray:
    """[side, side] bool of a polygon by COCO's rule."""
    return coco.decode(coco.frPyObjects([outline], side, side))[:, :, 0].astype(bool)


def draw(seed: Sequence[int], side: int, frames: int = 1, alike: bool = False, look: str = "") -> Drawing:
    """A scene of 2 to 4 things. Over the frames each thing drifts by up to 2.4 % of the side: too little to change its words.
    ``alike``: all things have one colour. ``look``: one of ``LOOKS``, which changes the pixels alone."""
    rng = np.random.default_rng(list(seed))
    things = lay_out(rng, alike)
    ground = _background(rng, side)  # [side, side, 3] float
    drift = rng.uniform(-0.024, 0.024, (len(things), 2)) / max(frames - 1, 1)  # [things, xy] per frame
    images, masks = [], []
    for frame in range(frames):
        moved = [_moved(thing, *(frame * step)) for thing, step in zip(things, drift, strict=True)]
        image = ground.copy()
        visible: list[np.ndarray] = []
        for thing in moved:
            mask = rasterise(thing.outline(side), side)  # [side, side]
            image[mask] = thing.rgb
            visible = [*(before & ~mask for before in visible), mask]  # the later thing lies on top
        image += rng.normal(0, 4, image.shape)
        if look:
            image = in_look(np.clip(image, 0, 255), look, (*seed, frame))
        images.append(np.clip(np.rint(image), 0, 255).astype(np.uint8))
        masks.append(visible)
    return Drawing(things, images, masks)


def lay_out(rng: np.random.Generator, alike: bool = False) -> list[Thing]:
    """2 to 4 things that hardly touch, each with a full phrase that fits no other. Starts anew where no room is left.
    ``alike``: of one colour."""
    wanted = int(rng.integers(2, 5))
    colours = (str(rng.choice(COLOURS)),) if alike else COLOURS
    for _ in range(200):
        things: list[Thing] = []
        for _ in range(60):
            thing = _random_thing(rng, colours)
            apart = all(math.hypot(thing.x - one.x, thing.y - one.y) > 0.9 * (thing.radius + one.radius) for one in things)
            if thing.words.position and apart and not ambiguous([one.words for one in [*things, thing]]):
                things.append(thing)
            if len(things) == wanted:
                return things
    raise RuntimeError(f"{wanted} things found no room in 200 attempts.")


def _random_thing(rng: np.random.Generator, colours: Sequence[str]) -> Thing:
    size, colour, shape = (str(rng.choice(kind)) for kind in (SIZES, colours, SHAPES))
    radius = float(rng.uniform(*_RADIUS[size]))
    x, y = (float(value) for value in rng.uniform(radius + 0.01, 0.99 - radius, 2))
    tint = rng.uniform(-10, 10, 3)
    red, green, blue = (float(base + change) for base, change in zip(_RGB[colour], tint, strict=True))
    return Thing(Words.at(size, colour, shape, x, y), x, y, radius, float(rng.uniform(-0.15, 0.15)), (red, green, blue))


def _moved(thing: Thing, dx: float, dy: float) -> Thing:
    low, high = thing.radius, 1 - thing.radius
    return replace(thing, x=min(max(thing.x + dx, low), high), y=min(max(thing.y + dy, low), high))


def _background(rng: np.random.Generator, side: int) -> np.ndarray:
    """[side, side, 3] float: a greyish tone with soft blotches, dark or light."""
    tone = rng.uniform(50, 95) if rng.random() < 0.5 else rng.uniform(165, 205)
    coarse = np.clip(tone + rng.uniform(-8, 8, 3) + rng.normal(0, 14, (8, 8, 3)), 0, 255).astype(np.uint8)  # [8, 8, 3]
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BILINEAR), dtype=np.float64)
