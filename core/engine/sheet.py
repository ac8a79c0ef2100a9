"""A sheet of pictures with true and predicted masks, as one PNG for a look at what a model does."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from math import ceil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core.contracts import Picture, Sample

CELL, GAP, SIZE = 256, 14, 15  # picture box, space around cells and font size, in pixels
BACKGROUND, INK, FAINT = (250, 250, 248), (32, 33, 36), (110, 112, 118)
TRUTH, RIGHT, WRONG = (0, 190, 70), (30, 110, 255), (235, 40, 40)
CASING, LINE = (255, 255, 255), 2  # beside the outlines, and their width in pixels
MAX_LINES = {"title": 3, "text": 5}


@lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


@lru_cache(maxsize=4096)
def _known(character: str) -> bool:
    """Whether the font has the character: a missing one is drawn as the same box as a code point that is never assigned."""
    font = _font(SIZE)
    return character == " " or bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))


def _drawable(text: str) -> str:
    """The text in characters the font has: accents are dropped where they must be, the rest becomes ``?``."""
    drawn = []
    for character in unicodedata.normalize("NFC", text):
        plain = [character] if _known(character) else [c for c in unicodedata.normalize("NFKD", character) if _known(c)]
        drawn += plain or ["?"]
    return "".join(drawn)


def _wrap(text: str, width: int, lines: int) -> list[str]:
    """The text in at most ``lines`` lines of ``width`` pixels."""
    font = _font(SIZE)
    words = _drawable(" ".join(text.split())).split(" ")
    rows = [""]
    while words and len(rows) <= lines:  # one row more than wanted shows that there is more
        word = words.pop(0)
        longer = f"{rows[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            rows[-1] = longer
        elif rows[-1]:
            rows.append("")
            words.insert(0, word)
        else:  # one word wider than the cell: cut where it still fits
            fits = bisect_right(range(1, len(word) + 1), width, key=lambda n: ceil(font.getlength(word[:n]))) or 1
            rows[-1] = word[:fits]
            if word[fits:]:
                rows.append("")
                words.insert(0, word[fits:])
    if len(rows) > lines:
        rows = rows[:lines]
        while rows[-1] and font.getlength(rows[-1] + "…") > width:
            rows[-1] = rows[-1][:-1]
        rows[-1] += "…"
    return [row for row in rows if row]


def _mask(mask: np.ndarray | None, picture: Picture, size: tuple[int, int]) -> np.ndarray:
    """The mask on the canvas of ``size`` (width, height), bool [height, width]; no mask is an empty one."""
    if mask is None:
        return np.zeros(size[::-1], dtype=bool)
    if mask.shape != picture.image.shape[:2]:
        raise ValueError(f"the mask of {picture.title!r} is {mask.shape}, its picture {picture.image.shape[:2]}.")
    return np.asarray(Image.fromarray(np.asarray(mask, dtype=np.uint8)).resize(size, Image.Resampling.NEAREST)) > 0


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask [H, W], with so many pixels around it in each direction; with less than none, so many less."""
    if pixels < 0:
        return ~_grown(~mask, -pixels)
    for _ in range(2):  # along the rows, then along the columns: Pillow's MaxFilter does the same a hundred times as slowly
        wide = mask.copy()
        for step in range(1, pixels + 1):
            wide[step:] |= mask[:-step]
            wide[:-step] |= mask[step:]
        mask = wide.T
    return mask


def _ring(mask: np.ndarray, outer: int, inner: int) -> np.ndarray:
    """Between two lines along the mask's edge, so many pixels outside it (less than none: inside)."""
    return _grown(mask, outer) & ~_grown(mask, inner)


def draw_masks(picture: Picture) -> Image.Image:
    """The picture fitted into a box of CELL pixels, with the outlines of its masks; its own colours stay, captions speak of them.

    Truth runs just outside its mask, in green; the predicted mask's line just inside, blue where it is right and red where it is wrong.
    So both are seen where they agree, and a white line between them and the picture lets them be seen on any colour.
    """
    height, width = picture.image.shape[:2]
    scale = CELL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    drawn = Image.fromarray(np.ascontiguousarray(picture.image, dtype=np.uint8)).convert("RGB").resize(size, Image.Resampling.BICUBIC)
    canvas = np.array(drawn)  # [height, width, 3]
    truth, predicted = _mask(picture.truth, picture, size), _mask(picture.predicted, picture, size)
    right = predicted if picture.truth is None else truth
    canvas[_ring(truth, LINE + 1, LINE)] = CASING
    canvas[_ring(predicted, -LINE, -LINE - 1)] = CASING
    canvas[_ring(truth, LINE, 0)] = TRUTH
    line = _ring(predicted, 0, -LINE)
    canvas[line & ~right] = WRONG
    canvas[line & right] = RIGHT
    return Image.fromarray(canvas)


def _caption(picture: Picture) -> list[tuple[str, tuple[int, int, int]]]:
    rows = [(row, INK) for row in _wrap(picture.title, CELL, MAX_LINES["title"])]
    rows += [(row, FAINT) for row in _wrap(picture.text, CELL, MAX_LINES["text"])]
    named = picture.texts if isinstance(picture, Sample) else {}
    for name, text in named.items():
        rows += [(row, FAINT) for row in _wrap(f"{name}: {text or '(nothing)'}", CELL, MAX_LINES["text"])]
    if picture.score is not None:
        what = "IoU" if isinstance(picture, Sample) else "score"
        rows.append((f"{what} {picture.score:.2f}", RIGHT if picture.score >= 0.5 else WRONG))
    return rows


def _legend(draw: ImageDraw.ImageDraw, x: int, y: int) -> int:
    """Draws the legend and returns its right edge."""
    for name, colour in (("truth", TRUTH), ("predicted, right", RIGHT), ("predicted, wrong", WRONG)):
        draw.rectangle((x, y + 2, x + 13, y + 15), outline=colour, width=LINE)
        draw.text((x + 20, y), name, INK, _font(SIZE))
        x += 20 + round(_font(SIZE).getlength(name)) + 18
    return x


def picture_sheet(pictures: Sequence[Picture], path: Path, columns: int = 4, title: str = "") -> None:
    """Writes the pictures, ``columns`` in a row, with title, generated text and score below each, to the PNG ``path``.

    The longer side of each picture becomes 256 pixels. Raises ValueError where a mask is not of its picture's size.
    """
    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}.")
    line = SIZE + 4
    drawn = [(draw_masks(picture), _caption(picture)) for picture in pictures]
    rows = [drawn[start : start + columns] for start in range(0, len(drawn), columns)]
    # A row is as high as its highest picture and its longest caption.
    heights = [(max(image.height for image, _ in row), max(len(text) for _, text in row) * line) for row in rows]
    legend_width = _legend(ImageDraw.Draw(Image.new("RGB", (1, 1))), GAP, 0)
    width = max(min(columns, max(1, len(drawn))) * (CELL + GAP) + GAP, legend_width)
    titles = _wrap(title, width - 2 * GAP, 2)
    top = GAP + len(titles) * line + line + GAP
    sheet = Image.new("RGB", (width, top + sum(picture + 6 + text + GAP for picture, text in heights)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(titles):
        draw.text((GAP, GAP + number * line), row, INK, _font(SIZE))
    _legend(draw, GAP, GAP + len(titles) * line)
    y = top
    for cells, (picture_height, text_height) in zip(rows, heights, strict=True):
        for column, (image, captions) in enumerate(cells):
            x = GAP + column * (CELL + GAP)
            sheet.paste(image, (x + (CELL - image.width) // 2, y + picture_height - image.height))
            for number, (text, colour) in enumerate(captions):
                draw.text((x, y + picture_height + 6 + number * line), text, colour, _font(SIZE))
        y += picture_height + 6 + text_height + GAP
    beside = path.with_name(path.name + ".new")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(beside, format="PNG", compress_level=1)  # a third of the time, for a file that is a tenth larger
    beside.replace(path)
