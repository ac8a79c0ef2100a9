"""A picture file as [H, W, 3] uint8 RGB: turned as it is shown, on white where it is transparent, 16 bits brought down to 8."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from core.pixels.files import MAX_PIXELS, Source, Tell, Unreadable, named, opened, silent
from core.pixels.turning import Orientation, back, orientation_of, shown_size, turned, turns_itself

FACTORS = (2, 4, 8)  # by which JPEGs can be reduced while they are decoded
_DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras, microscopes and scanners store in 16
_ALIKE = 0.05  # of the logarithm of width over height, by which masks drawn on larger originals may differ
_ALPHA = ("LA", "La", "RGBA", "RGBa", "PA")
_OTHER_BYTE = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B" if sys.byteorder == "little" else ";16L"}  # N: the machine's order


def read_picture(
    source: Source,
    *,
    size: tuple[int, ...] | None = None,
    scaled: bool = False,
    draft: int | None = None,
    orientation: Orientation = "shown",
    limit: int = MAX_PIXELS,
    tell: Tell = silent,
) -> tuple[np.ndarray, int]:
    """[H, W, 3] uint8 RGB of a file or its bytes, and the factor by which ``draft`` has reduced it (1, 2, 4 or 8).

    ``size``: (H, W) that the picture must have, that of its mask; ``scaled``: or a multiple of it, to 5 %. Where only the other
    orientation has it, that one is taken.
    ``draft``: a JPEG is decoded at 1/2, 1/4 or 1/8, where both its sides keep at least so many pixels. ``tell`` hears of what was
    made of the file. Raises ``Unreadable``.
    """
    with opened(source, limit) as picture:
        stored_as = orientation_of(picture, tell)
        shown = (
            _which(picture, stored_as, size, _fitting(size, scaled), orientation, source, tell)
            if stored_as != 1 or size is not None
            else True
        )
        width, height = picture.size
        factor = next((one for one in reversed(FACTORS) if draft and min(width, height) // one >= draft), 1)
        if factor > 1:
            picture.draft("RGB", (width // factor, height // factor))  # of JPEGs only
        if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":  # an MPO's others are the same scene
            tell("a picture of several pages or frames: the first is taken")
        deep = _deep(picture)
        rows = picture.height
        array = _sixteen(picture, source, limit, tell) if deep else rgb_of(picture, tell)  # [H, W, 3]
        if rows == height:
            factor = 1
        if turns_itself(picture):
            stored_as = 1 if shown else back(stored_as)
        elif not shown:
            stored_as = 1
        return (turned(array, stored_as) if stored_as != 1 else array), factor


def _fitting(size: tuple[int, ...] | None, scaled: bool) -> Callable[[tuple[int, int]], bool]:
    """Whether a picture of (height, width) goes with a mask of ``size``."""

    def fits(picture: tuple[int, int]) -> bool:
        if size is None:
            return True
        return abs(math.log(size[1] * picture[0] / (size[0] * picture[1]))) <= _ALIKE if scaled else size == picture

    return fits


def _which(
    picture: Image.Image,
    stored_as: int,
    size: tuple[int, ...] | None,
    fits: Callable[[tuple[int, int]], bool],
    wanted: Orientation,
    source: Source,
    tell: Tell,
) -> bool:
    """Whether the picture is to be taken as it is shown. Raises ``Unreadable`` where neither way has the size."""
    shown = shown_size(picture, stored_as)
    stored = shown[::-1] if stored_as >= 5 else shown
    if fits(shown if wanted == "shown" else stored):
        if wanted == "stored" and stored_as != 1:
            tell("pictures with an EXIF orientation: taken as stored, as the masks of this source were drawn")
        return wanted == "shown"
    if fits(stored if wanted == "shown" else shown):
        other: Orientation = "stored" if wanted == "shown" else "shown"
        tell(f"masks that fit the picture only as it is {other}: taken so; if all were drawn so, set orientation: {other}")
        return other == "shown"
    raise Unreadable("size", named(source, differ(size or (), shown, stored_as)))


def differ(mask: tuple[int, ...], picture: tuple[int, ...], orientation: int = 1) -> str:
    """What is to be said where a mask (height, width) is not of its picture's size; that of the picture as shown."""
    text = f"the mask is {mask[1]}x{mask[0]}, the picture {picture[1]}x{picture[0]}"
    if tuple(mask) == tuple(picture)[::-1] and mask != picture:
        return f"{text}: one of them is turned by 90 degrees, and no EXIF orientation says which way; turn the picture or its masks"
    if orientation != 1:
        return f"{text} after its EXIF orientation ({orientation}) was applied, and the mask fits neither way"
    return f"{text}, and no orientation makes them equal"


def rgb_of(picture: Image.Image, tell: Tell = silent) -> np.ndarray:
    """[H, W, 3] uint8 of an opened picture as it is stored. Raises ``Unreadable``."""
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return np.array(picture)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        return _levels(np.asarray(picture), tell)
    if picture.mode in _ALPHA or "transparency" in picture.info:
        over = picture.convert("RGBA")
        if over.getchannel("A").getextrema() == (255, 255):
            return np.array(over.convert("RGB"))
        tell("transparent pictures: shown on white")
        white = Image.new("RGBA", over.size, "white")
        return np.array(Image.alpha_composite(white, over).convert("RGB"))
    return np.array(picture.convert("RGB"))  # 1, L, P, CMYK, YCbCr, HSV, LAB


def _levels(values: np.ndarray, tell: Tell) -> np.ndarray:
    """[H, W] or [H, W, 3] of any number type -> [H, W, 3] uint8.

    Of 8, 10, 12, 14 and 16 bits the fewest that hold the largest value are taken for the depth; the upper 8 of them are kept.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise Unreadable("damaged", "it holds values that are no numbers")
    low, high = values.min(), values.max()
    if low < 0 or high > 65535 or values.dtype.kind == "f":
        unit = values.dtype.kind == "f" and low >= 0 and high <= 1
        span = (0.0, 1.0) if unit else (float(low), max(float(high), float(low) + 1))
        tell("pictures with numbers beyond 16 bits or with fractions: their range is brought to 0..255")
        grey = np.rint((values.astype(np.float64) - span[0]) * (255 / (span[1] - span[0]))).astype(np.uint8)
    else:
        depth = next(bits for bits in _DEPTHS if high < 2**bits)
        if depth < 16:
            tell(f"16-bit pictures that use {depth} bits: these are brought to 8")
        grey = (values >> (depth - 8)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2) if grey.ndim == 2 else grey


def _deep(picture: Image.Image) -> bool:
    """Whether these are colours of 16 bits, of which Pillow decodes the upper 8 alone."""
    parts = [part for tile in getattr(picture, "tile", None) or () for part in _parts(tile.args)]
    return picture.mode in ("RGB", "RGBA") and any(isinstance(part, str) and part.endswith(tuple(_OTHER_BYTE)) for part in parts)


def _parts(arguments: Any) -> tuple[Any, ...]:
    return arguments if isinstance(arguments, tuple) else (arguments,)


def _sixteen(picture: Image.Image, source: Source, limit: int, tell: Tell) -> np.ndarray:
    """[H, W, 3] uint8 of colours of 16 bits: their lower bytes are decoded too, so that 10 or 12 bits of them stay visible."""
    with opened(source, limit) as again:
        tiles = list(again.tile)  # type: ignore[attr-defined]
        grey = any("LA;16B" in _parts(tile.args) for tile in tiles)  # grey with alpha: Pillow has no way to the lower byte
        if not grey:
            again.tile = [tile._replace(args=tuple(map(_other_byte, _parts(tile.args)))) for tile in tiles]  # type: ignore[attr-defined]
        high = np.array(picture)  # [H, W, 3 or 4] uint8
        low = np.zeros_like(high) if grey else np.array(again)
    if grey and not high[..., :3].any():
        raise Unreadable(
            "no", named(source, "16-bit grey with transparency whose upper bytes are empty is not read here; save it without alpha")
        )
    rgb = _levels(high[..., :3].astype(np.uint16) * 256 + low[..., :3], tell)
    if high.shape[2] == 3 or (high[..., 3] == 255).all():
        return rgb
    tell("transparent pictures: shown on white")
    opaque = high[..., 3:] / 255  # [H, W, 1]
    return np.rint(rgb * opaque + 255 * (1 - opaque)).astype(np.uint8)


def _other_byte(part: Any) -> Any:
    """The raw mode of the other byte of 16."""
    suffix = part[-4:] if isinstance(part, str) else ""
    return part[:-4] + _OTHER_BYTE[suffix] if suffix in _OTHER_BYTE else part
