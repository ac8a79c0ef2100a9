"""Damaged files give pixels or one clear refusal; files written in any unusual way give the right pixels or a refusal, never others.

``DUALLOOP_FUZZ=N`` tries N damages and N ways instead of a few.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.pixels import Unreadable, labels_of, mask_of, read_picture, turned, videos
from core.pixels.turning import back

MANY = int(os.environ.get("DUALLOOP_FUZZ", "0"))
H, W = 24, 32
pytestmark = pytest.mark.filterwarnings("ignore")


def scene() -> np.ndarray:
    array = np.full((H, W, 3), (40, 90, 60), np.uint8)
    array[4:12, 6:20] = (230, 20, 20)
    return array


def box() -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[4:12, 6:20] = True
    return mask


def saved(picture: Image.Image, form: str, **how: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **how)
    return file.getvalue()


def files() -> list[bytes]:
    picture, exif = Image.fromarray(scene()), Image.Exif()
    exif[0x0112] = 6
    forms = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO", "PCX")
    out = [saved(picture, form) for form in forms]
    out += [saved(picture, form, exif=exif) for form in ("JPEG", "PNG", "WEBP", "TIFF", "MPO")]
    out += [saved(picture.convert("RGBA"), "PNG"), saved(picture.quantize(8), "PNG", transparency=0)]
    out += [saved(picture, "TIFF", compression="tiff_lzw"), saved(Image.fromarray(box()), "PNG")]
    return [*out, saved(Image.fromarray(box().astype(np.uint16) * 900), "PNG")]


def refused_or(read: Callable[..., Any], *given: Any, **how: Any) -> Any:
    """What it returns, or its refusal."""
    try:
        return read(*given, **how)
    except Unreadable as fault:
        return fault


def damaged(data: bytes, draw: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.integers(1, 5)):
        at = int(draw.integers(0, max(1, len(changed))))
        kind = draw.integers(0, 5)
        if kind == 0 and changed:
            changed[at % len(changed)] ^= 1 << int(draw.integers(0, 8))
        elif kind == 1:
            del changed[at : at + int(draw.integers(1, 30))]
        elif kind == 2:
            changed[at:at] = draw.bytes(int(draw.integers(1, 9)))
        elif kind == 3:
            changed[at : at + 4] = bytes([[0, 0, 0, 0], [255] * 4, [127, 255, 255, 255]][int(draw.integers(0, 3))])
        elif kind == 4 and draw.random() < 0.3:
            del changed[at:]
    return bytes(changed)


def test_damaged_pictures_and_masks() -> None:
    draw, good = np.random.default_rng(None if MANY else 1), files()
    for number in range(MANY or 300):
        data = damaged(good[number % len(good)], draw)
        for found in (refused_or(read_picture, data, draft=8, limit=10**6), refused_or(mask_of, data, limit=10**6)):
            if isinstance(found, Unreadable):
                assert found.reason
                assert found.detail
                continue
            pixels = found[0] if isinstance(found, tuple) else found
            assert pixels.dtype in (np.uint8, bool)
            assert pixels.ndim in (2, 3)
            assert 0 < pixels.size <= 3 * 10**6


def test_damaged_videos(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"g": "5", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = W, H, "yuv420p"
        for number in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((H, W, 3), 20 * number, np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    good, draw = (tmp_path / "v.mp4").read_bytes(), np.random.default_rng(None if MANY else 2)
    for _ in range(MANY or 40):
        (tmp_path / "v.mp4").write_bytes(damaged(good, draw))
        videos._times.cache_clear()
        found = refused_or(videos.read_frames, tmp_path / "v.mp4", [0, 7], limit=10**6)
        if isinstance(found, Unreadable):
            assert "v.mp4" in found.detail or found.reason == "no upright"
        else:
            assert all(frame.dtype == np.uint8 and frame.ndim == 3 for frame in found)


def way_of_a_mask(draw: np.random.Generator) -> tuple[bytes, np.ndarray, str]:
    """One way of writing the box: mode, values, palette, transparency, orientation, format."""
    exif, orientation = Image.Exif(), int(draw.integers(1, 9)) if draw.random() < 0.5 else 1
    exif[0x0112] = orientation
    stored = turned(box(), back(orientation))  # shown upright once it is turned
    value, other = int(draw.integers(1, 256)), int(draw.integers(0, 256))
    kind = str(draw.choice(["1", "L", "I;16", "P", "RGB", "LA", "RGBA", "Pt"]))
    levels = (stored * value).astype(np.uint8)
    how: dict[str, Any] = {}
    if kind == "1":
        picture = Image.fromarray(stored)
    elif kind == "L":
        picture = Image.fromarray(levels)
    elif kind == "I;16":
        picture = Image.fromarray(stored.astype(np.uint16) * int(draw.integers(1, 65536)))
    elif kind in ("P", "Pt"):
        number = int(draw.integers(1, 256))
        picture = Image.fromarray((stored * number).astype(np.uint8)).convert("P")
        colours = draw.integers(1, 256, 768).tolist()
        colours[:3] = [other] * 3 if kind == "Pt" else [0, 0, 0]
        picture.putpalette(colours)
        how = {"transparency": 0} if kind == "Pt" else {}
    elif kind == "RGB":
        picture = Image.fromarray(
            levels[..., None] * np.array([1, 0, 0], np.uint8) if draw.random() < 0.5 else np.repeat(levels[..., None], 3, 2)
        )
    else:
        ground = np.full(stored.shape, other, np.uint8)
        picture = Image.fromarray(ground).convert("L" if kind == "LA" else "RGB")
        picture.putalpha(Image.fromarray((stored * 255).astype(np.uint8)))
    forms = ["PNG", "TIFF"] if kind in ("1", "L", "I;16", "RGB") else ["PNG"]
    form = str(draw.choice(forms + (["WEBP"] if kind in ("RGB", "RGBA") else []) + (["GIF"] if kind == "P" and orientation == 1 else [])))
    how |= {"lossless": True, "exact": True} if form == "WEBP" else {}
    return (
        saved(picture, form, **how, **({"exif": exif} if orientation != 1 else {})),
        box(),
        f"{kind} {form} {orientation} {value} {other}",
    )


def test_a_mask_in_any_way_of_writing_it_is_the_same_mask() -> None:
    draw = np.random.default_rng(None if MANY else 3)
    refused = 0
    for _ in range(MANY or 400):
        data, expected, what = way_of_a_mask(draw)
        found = refused_or(mask_of, data)
        if isinstance(found, Unreadable):
            refused += 1
            assert found.reason != "damaged", (what, str(found))
            continue
        np.testing.assert_array_equal(found, expected, err_msg=what)
        labels = labels_of(data)
        assert labels is None or len(labels) == 1, what
    assert refused <= (MANY or 400) / 50


def test_a_picture_in_any_way_of_writing_it_is_the_same_picture() -> None:
    draw = np.random.default_rng(None if MANY else 4)
    for _ in range(MANY or 400):
        orientation = int(draw.integers(1, 9))
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = Image.fromarray(turned(scene(), back(orientation)))
        form = str(draw.choice(["PNG", "TIFF", "WEBP", "JPEG", "MPO"]))
        mode = str(draw.choice(["RGB", "RGBA", "P", "CMYK"] if form in ("TIFF", "PNG") else ["RGB"]))
        if mode == "CMYK" and form == "PNG":
            mode = "RGB"
        picture = stored.quantize(8) if mode == "P" else stored.convert(mode)
        how: dict[str, Any] = {"lossless": True} if form == "WEBP" else {"quality": 95, "subsampling": 0} if form in ("JPEG", "MPO") else {}
        found, _ = read_picture(saved(picture, form, exif=exif, **how), size=(H, W))
        assert np.abs(found.astype(int) - scene()).max() <= (40 if form in ("JPEG", "MPO") else 1), (form, mode, orientation)
