"""What every reader shares: a spread sample of an index, opening index files and pictures with clear faults."""

from __future__ import annotations

import io
import random
import struct
import zlib
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from core.contracts import BadSample, UserError

#: No picture or mask larger than this is ever allocated, whatever a file claims.
MAX_PIXELS = 100_000_000
FACTORS = (2, 4, 8)  # by which JPEGs can be reduced while they are decoded


def spread(count: int, max_samples: int | None, seed: int = 0) -> Sequence[int]:
    """Increasing indices out of ``range(count)``: one drawn from each of ``max_samples`` equal stretches.

    A range or a packed array, no list: it is held for as long as the data set. The same arguments give the same indices on
    every machine. Raises ``ValueError`` for ``max_samples`` below 1.
    """
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"max_samples must be at least 1 or left out, not {max_samples}.")
    if max_samples is None or max_samples >= count:
        return range(count)
    draw = random.Random(seed)
    return array("q", (draw.randrange(i * count // max_samples, (i + 1) * count // max_samples) for i in range(max_samples)))


def existing_folder(root: Path, source: str, holds: str) -> Path:
    """``root`` with ``~`` expanded. Raises ``UserError`` where it is no folder; ``holds`` says what belongs in it."""
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f"{source}: there is no folder {root}; set root to the folder that holds {holds}.")
    return root


def existing_file(path: Path, source: str) -> Path:
    """``path`` itself. Raises ``UserError`` where it is no file."""
    if not path.is_file():
        raise UserError(f"{source}: {path} is missing; check root, or unpack the data set there.")
    return path


def read_picture(source: Path | bytes, sample: str, draft: int | None = None) -> np.ndarray:
    """[H, W, 3] uint8 RGB of a JPEG or PNG file or its bytes; grey and CMYK pictures are converted.

    With ``draft`` a JPEG is decoded at 1/2, 1/4 or 1/8, where both its sides keep at least so many pixels: quicker, but not
    the pixels that reducing the decoded picture would give. Raises ``BadSample`` for a missing, damaged or over-large picture.
    """
    return _pixels(_open(source, sample, "picture", draft))


def read_view(source: Path | bytes, sample: str, size: tuple[int, ...], draft: int | None) -> tuple[np.ndarray, int]:
    """``read_picture`` of a picture that must have its mask's ``size``, and the factor by which the mask is to be reduced."""
    opened = _open(source, sample, "picture", draft, size)
    return _pixels(opened), next(factor for factor in (1, *FACTORS) if opened.height == -(-size[0] // factor))


def read_mask_file(path: Path, sample: str) -> Image.Image:
    """A mask stored as a picture, as a PIL image of mode "1" and its own size, set where it is not black. Raises ``BadSample``."""
    opened = _open(path, sample, "mask")
    values = np.asarray(opened if opened.mode in ("1", "L", "I", "I;16") else opened.convert("RGB"))
    return Image.fromarray(values.any(axis=2) if values.ndim == 3 else values != 0)


def check_draft(draft: int | None) -> int | None:
    """The option ``draft`` of a reader. Raises ``ValueError`` where it is below 1."""
    if draft is not None and draft < 1:
        raise ValueError(f"draft must be at least 1 or left out, not {draft}.")
    return draft


def _pixels(picture: Image.Image) -> np.ndarray:
    """[H, W, 3] uint8."""
    if picture.mode in ("I", "I;16"):  # 16-bit grey, which PIL would clip
        return np.repeat((np.asarray(picture) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _open(source: Path | bytes, sample: str, what: str, draft: int | None = None, size: tuple[int, ...] | None = None) -> Image.Image:
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=("JPEG", "PNG")) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise BadSample(f"{what} too large", sample, f"{width}x{height}, more than {MAX_PIXELS:,} pixels")
            if size is not None and (height, width) != size:
                raise BadSample("mask and picture differ in size", sample, f"{size} and {(height, width)}")
            factor = next((one for one in reversed(FACTORS) if draft and min(width, height) // one >= draft), None)
            if factor:
                opened.draft("RGB", (width // factor, height // factor))  # of JPEGs only
            opened.load()
            return opened
    except FileNotFoundError as fault:
        raise BadSample(f"missing {what}", sample, str(source)) from fault
    except (OSError, ValueError, SyntaxError, struct.error, zlib.error, Image.DecompressionBombError) as fault:
        name = f"{source}: " if isinstance(source, Path) else ""
        raise BadSample(f"damaged {what}", sample, f"{name}{fault}") from fault
