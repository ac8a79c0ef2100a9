"""Questions, phrases and regions put to a model, and the answers as text, masks and outlined pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from core.contracts import AnswersQuestions, BadSample, FollowsUpstream, Model, Region, UserError
from core.registry.offers import wanted

Visual = np.ndarray | list[np.ndarray]  # a picture [H, W, 3] uint8, or frames of one size

# Okabe and Ito's colours, which colour-blind readers can tell apart; white stands for the regions that were asked about
COLOURS = ((0, 158, 115), (213, 94, 0), (86, 180, 233), (204, 121, 167), (230, 159, 0), (0, 114, 178), (240, 228, 66))


@dataclass
class Answered:
    """``asked``: the question, phrase or region as it was given; a mask is [H, W] bool, of a video [n, H, W]."""

    asked: str
    text: str
    masks: list[np.ndarray] = field(default_factory=list)
    files: list[list[Path]] = field(default_factory=list)  # of each mask, once written

    @property
    def shares(self) -> list[list[float]]:
        """Of each mask in each frame, the share of the picture that it covers."""
        return [[float(frame.mean()) for frame in (mask if mask.ndim == 3 else mask[None])] for mask in self.masks]


def segment(model: Model, visual: Visual, phrases: Sequence[str], max_new_tokens: int) -> list[Answered]:
    """The mask of each phrase, or none where the model answers without one. Raises ``UserError``."""
    if isinstance(visual, list):
        talking = _talking(model)
        return [ask(model, visual, talking.segmentation_request(phrase), None, max_new_tokens, phrase) for phrase in phrases]
    found = model.predict(visual, phrases, max_new_tokens)
    return [Answered(phrase, one.text, [] if one.mask is None else [one.mask]) for phrase, one in zip(phrases, found, strict=True)]


def describe(model: Model, image: np.ndarray, regions: np.ndarray, names: Sequence[str], max_new_tokens: int) -> list[Answered]:
    """What the model says of each region [n, H, W] bool, asked as in training. Raises ``UserError``."""
    try:
        samples = [model.preparation(Region(name, image, mask)) for name, mask in zip(names, regions, strict=True)]
    except BadSample as fault:
        raise UserError(f"region {fault.sample}: {fault.reason}{f' ({fault.detail})' if fault.detail else ''}") from None
    with model.computing(training=False):
        batch = model.preparation.collate(samples).to(model.head()[0].device)
        texts = model.decode(model.generate(model.encode(batch), batch.view1, batch.cells, max_new_tokens))
    return [Answered(name, text) for name, text in zip(names, texts, strict=True)]


def ask(model: Model, visual: Visual, question: str, regions: np.ndarray | None, max_new_tokens: int, asked: str | None = None) -> Answered:
    """The answer to a free question; ``regions`` [n, H, W] bool are called region1, region2, ... in it. Raises ``UserError``."""
    answer = _talking(model).ask(visual, question, regions, max_new_tokens)
    return Answered(question if asked is None else asked, answer.text, answer.masks)


def follow_upstream(model: Model) -> None:
    """Makes a model answer as the code does that it was published with. Raises ``UserError`` for one that knows no such code."""
    if not isinstance(model, FollowsUpstream):
        methods = " and ".join(map(repr, wanted(FollowsUpstream)))
        raise UserError(f"--upstream: the model ({type(model).__name__}) has no {methods}; leave --upstream out")
    model.follow_upstream()


def _talking(model: Model) -> AnswersQuestions:
    if not isinstance(model, AnswersQuestions):
        methods = " and ".join(map(repr, wanted(AnswersQuestions)))
        what = "questions and videos; ask for the mask of a phrase (--segment) or the description of a region (--region) in a picture"
        raise UserError(f"the model ({type(model).__name__}) has no {methods}, which it needs for {what}")
    return model


def write(folder: Path, visual: Visual, answers: Sequence[Answered], regions: np.ndarray | None) -> list[Path]:
    """Every mask as PNG (white: inside), and the picture, or each frame, with all of them outlined; returns the outlined ones.

    Raises ``UserError`` where ``folder`` cannot be written; ``OSError`` is the caller's.
    """
    folder.mkdir(parents=True)
    video = isinstance(visual, list)
    masks: list[np.ndarray] = []
    for answer in answers:
        for mask in answer.masks:
            masks.append(mask)
            frames = mask if mask.ndim == 3 else mask[None]
            files = [folder / f"mask{len(masks)}{f'-frame{frame:05d}' if video else ''}.png" for frame in range(len(frames))]
            for file, inside in zip(files, frames, strict=True):
                Image.fromarray(inside).save(file)
            answer.files.append(files)
    outlined = []
    for frame, image in enumerate(visual if isinstance(visual, list) else [visual]):
        file = folder / (f"outlined-frame{frame:05d}.png" if video else "outlined.png")
        given = [] if regions is None else list(regions)
        outline(image, [mask[frame] if mask.ndim == 3 else mask for mask in masks], given).save(file)
        outlined.append(file)
    return outlined


def outline(image: np.ndarray, masks: Sequence[np.ndarray], regions: Sequence[np.ndarray] = ()) -> Image.Image:
    """The picture [H, W, 3] with the edge of each mask [H, W] bool in a colour of its own and its number, and of regions in white."""
    canvas = Image.fromarray(image).convert("RGB")
    width = max(3, round(min(canvas.size) / 200) | 1)  # odd, as the filter wants it
    shown = [(mask, (255, 255, 255), "") for mask in regions]
    shown += [(mask, COLOURS[i % len(COLOURS)], str(i + 1)) for i, mask in enumerate(masks)]
    for mask, colour, _ in shown:
        flat = Image.fromarray(np.asarray(mask, dtype=np.uint8) * 255)
        wide, inner = flat.filter(ImageFilter.MaxFilter(width)), flat.filter(ImageFilter.MinFilter(3))
        edge = Image.fromarray(np.asarray(wide) & ~np.asarray(inner))
        canvas.paste(colour, mask=edge)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(max(12, min(canvas.size) // 24))
    for mask, colour, number in shown:
        if number and mask.any():
            rows, columns = np.nonzero(mask)
            middle = int(np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2))  # a pixel of the mask itself
            draw.text((columns[middle], rows[middle]), number, colour, font, anchor="mm", stroke_width=2, stroke_fill=(0, 0, 0))
    return canvas
