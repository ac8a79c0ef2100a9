"""Opening a picture file: which formats, how large, and what is said where it cannot be read."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from PIL import Image, UnidentifiedImageError

Source: TypeAlias = Path | bytes  # a file, or what is in it
Tell: TypeAlias = Callable[[str], None]  # takes a sentence about how something was read that its owner should know

#: No picture or mask larger than this is ever allocated, whatever a file claims, unless an option allows more.
MAX_PIXELS = 100_000_000
_FIRST = ("JPEG", "PNG")  # tried before the modules of the others are loaded
_NEVER = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}  # they start another program, or are only recognised
_BEGINNINGS = (  # what people take for a picture, by its first bytes
    (b"version https://git-lfs", "a pointer of Git LFS in place of the file; run git lfs pull"),
    (b"<!DOCTYPE", "a web page; the download has failed"),
    (b"<!doctype", "a web page; the download has failed"),
    (b"<html", "a web page; the download has failed"),
    (b"<?xml", "XML or SVG; draw it as a PNG"),
    (b"<svg", "an SVG drawing; draw it as a PNG"),
    (b"%PDF", "a PDF; export its pages as PNG"),
    (b"%!PS", "PostScript; export it as PNG"),
    (b"PK\x03\x04", "a ZIP archive; unpack it"),
    (b"\x93NUMPY", "a numpy array; save it as PNG"),
)


#: What Pillow and its decoders raise for damaged files.
_DAMAGE = (
    *(OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, IndexError, RuntimeError, OverflowError, MemoryError),
    *(struct.error, zlib.error, ZeroDivisionError),
)


def silent(_: str) -> None:
    """For readers whose owner does not ask."""


class Unreadable(Exception):
    """A file that gives no pixels. ``reason`` is a short constant (missing, damaged, unknown, too large, no, ...); ``detail`` says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def named(source: Source, text: str) -> str:
    """The text with the file's name before it, where there is one."""
    return text if isinstance(source, bytes) else f"{source}: {text}"


@contextmanager
def opened(source: Source, limit: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The picture in any format that Pillow reads by itself, whatever the file's name; decoded when its pixels are asked for.

    Faults of opening, and of decoding inside the ``with``, come as ``Unreadable``.
    """
    if Image.MAX_IMAGE_PIXELS is not None and limit > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = limit  # Pillow's own limit would come first
    try:
        with _identified(source) as picture:
            width, height = picture.size
            if width * height > limit:
                raise Unreadable("too large", named(source, f"{width}x{height}, more than {limit:,} pixels"))
            yield picture
    except FileNotFoundError as fault:
        raise Unreadable("missing", str(source)) from fault
    except UnidentifiedImageError as fault:
        raise Unreadable(*_unknown(source)) from fault
    except Image.DecompressionBombError as fault:
        raise Unreadable("too large", named(source, f"more than {limit:,} pixels")) from fault
    except _DAMAGE as fault:
        raise Unreadable("damaged", named(source, str(fault) or type(fault).__name__)) from fault


def _identified(source: Source) -> Image.Image:
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FIRST)
    except UnidentifiedImageError:
        Image.init()
        others = sorted(set(Image.ID) - {*_FIRST, *_NEVER}, key=lambda name: name == "TGA")  # TGA has no mark of its own: last
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=others)


def _unknown(source: Source) -> tuple[str, str]:
    """The reason and what is in the file instead."""
    if isinstance(source, bytes):
        head = source[:160]
    else:
        with source.open("rb") as file:
            head = file.read(160)
    if not head:
        return "damaged", named(source, "the file is empty")
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG")):
        return "damaged", named(source, "its head is that of a picture, the rest is not")
    for beginning, text in _BEGINNINGS:
        if head.lstrip().startswith(beginning):
            return "no", named(source, text)
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
        return "no", named(source, "HEIC, which is not read here; save it as JPEG")
    if head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3":
        return "no", named(source, "a video; take its frames out")
    if head[128:132] == b"DICM":
        return "no", named(source, "DICOM; export it as PNG")
    return "unknown", named(source, "no format of a picture that is known here, such as JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, JPEG 2000")
