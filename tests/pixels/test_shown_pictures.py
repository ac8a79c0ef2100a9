"""Pictures as a person sees them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from core.pixels import Unreadable, read_picture
from core.pixels.turning import turned


def scene(width: int = 32, height: int = 20) -> np.ndarray:
    """[H, W, 3] uint8: four quarters of other colours, in blocks that JPEG keeps."""
    array = np.full((height, width, 3), (40, 90, 60), np.uint8)
    array[: height // 2, : width // 2] = (230, 20, 20)
    array[: height // 2, width // 2 :] = (20, 20, 230)
    return array


def saved(array: np.ndarray, form: str, **how: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, form, **how)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def png(array: np.ndarray, kind: int) -> bytes:
    """A PNG of 16 bits, which Pillow does not write in colour; ``kind`` 2: RGB, 4: grey and alpha, 6: RGBA."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_every_orientation_in_every_format_that_carries_one(form: str, orientation: int) -> None:
    how = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}, "MPO": {"quality": 95}, "AVIF": {"quality": 95}}.get(form, {})
    data = saved(scene(), form, exif=exif(orientation), **how)
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB")).astype(int)
    shown, _ = read_picture(data)
    assert np.abs(shown - expected).max() <= 1
    stored, _ = read_picture(data, orientation="stored")
    assert stored.shape == (20, 32, 3)
    assert np.abs(stored.astype(int) - scene()).mean() < 12  # those of JPEG and AVIF are not exact
    np.testing.assert_array_equal(turned(stored, orientation), shown)


def test_orientation_in_xmp_alone_and_data_that_is_none(tmp_path: Path) -> None:
    packet = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    assert read_picture(saved(scene(), "JPEG", xmp=packet.encode()))[0].shape == (32, 20, 3)
    for data in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense", b"Exif\0\0"):
        picture, _ = read_picture(saved(scene(), "JPEG", exif=data))
        assert picture.shape == (20, 32, 3)
    for odd in (0, 9, 77):
        assert read_picture(saved(scene(), "JPEG", exif=exif(odd)))[0].shape == (20, 32, 3)


def test_a_draft_is_turned_too() -> None:
    array = np.repeat(np.repeat(scene(), 8, 0), 8, 1)  # [160, 256, 3]
    data = saved(array, "JPEG", exif=exif(6))
    picture, factor = read_picture(data, draft=40, size=(256, 160))
    assert (picture.shape, factor) == ((64, 40, 3), 4)
    assert picture[5, 35, 0] > 200  # the red corner, top left as stored


@pytest.mark.parametrize(("size", "orientation", "shape"), [((32, 20), "stored", (32, 20, 3)), ((20, 32), "shown", (20, 32, 3))])
def test_where_only_the_other_orientation_fits_it_is_taken_and_told(
    size: tuple[int, int], orientation: Any, shape: tuple[int, ...]
) -> None:
    told: list[str] = []
    picture, _ = read_picture(saved(scene(), "JPEG", exif=exif(6)), size=size, orientation=orientation, tell=told.append)
    assert picture.shape == shape
    assert any("set orientation" in text for text in told)


@pytest.mark.parametrize(
    ("size", "said"),
    [((32, 20), "turned by 90 degrees, and no EXIF"), ((20, 31), "no orientation makes them equal"), ((16, 10), "no orientation")],
)
def test_other_sizes_are_refused_with_a_word_about_orientation(size: tuple[int, int], said: str) -> None:
    with pytest.raises(Unreadable, match=said):
        read_picture(saved(scene(), "PNG"), size=size)
    with pytest.raises(Unreadable, match="EXIF orientation"):
        read_picture(saved(scene(), "JPEG", exif=exif(8)), size=(7, 7))


FORMS = ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO", "QOI", "PCX", "DDS", "SGI"]


@pytest.mark.parametrize(("form", "name"), [*((form, "a.jpg") for form in FORMS), ("JPEG", "a"), ("WEBP", "a.png"), ("TGA", "a.x")])
def test_every_format_under_any_name(tmp_path: Path, form: str, name: str) -> None:
    how: dict[str, Any] = {"WEBP": {"lossless": True}, "ICO": {"sizes": [(32, 20)]}}.get(form, {})
    (tmp_path / name).write_bytes(saved(scene(), form, **how))
    picture, _ = read_picture(tmp_path / name)
    assert picture.shape == (20, 32, 3)
    assert np.abs(picture.astype(int) - scene()).mean() < 20


@pytest.mark.parametrize("top", [65535, 16383, 4095, 1023, 255])
@pytest.mark.parametrize("form", ["PNG", "TIFF", "colour", "colour TIFF"])
def test_sixteen_bits_of_any_depth_are_visible(top: int, form: str) -> None:
    grey = scene()[..., 1]
    values = np.round(grey / 255 * top).astype(np.uint16)
    colours = np.repeat(values[..., None], 3, axis=2)
    data = _tiff(colours) if form == "colour TIFF" else png(colours, 2) if form == "colour" else saved(values, form)
    picture, _ = read_picture(data)
    assert np.abs(picture[..., 0].astype(int) - grey).max() <= 1
    assert (picture == picture[..., :1]).all()


def _tiff(colours: np.ndarray) -> bytes:
    """[H, W, 3] uint16 as a TIFF of one strip."""
    height, width, _ = colours.shape
    pixels = colours.astype("<u2").tobytes()
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 8 + len(pixels)), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 8)]
    tags += [(277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(pixels))]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels) + 6) + pixels + struct.pack("<3H", 16, 16, 16) + directory


def test_depth_and_transparency_together() -> None:
    values = np.zeros((4, 6, 4), np.uint16)
    values[..., 0] = 4095
    values[:2, :, 3] = 65535
    picture, _ = read_picture(png(values, 6))
    assert picture[0, 0].tolist() == [255, 0, 0]
    assert picture[3, 0].tolist() == [255, 255, 255]
    grey = np.full((4, 6, 2), 200, np.uint16)
    with pytest.raises(Unreadable, match="save it without alpha"):
        read_picture(png(grey, 4))
    assert read_picture(png(np.full((4, 6, 2), 65535, np.uint16), 4))[0].min() == 255


@pytest.mark.parametrize(("values", "expected"), [((-1000.0, 3000.0), (0, 255)), ((0.0, 1.0), (0, 255)), ((0.0, 0.5), (0, 128))])
def test_numbers_beyond_sixteen_bits(values: tuple[float, float], expected: tuple[int, int]) -> None:
    array = np.array([[values[0]] * 4, [values[1]] * 4], np.float32)
    picture, _ = read_picture(saved(array, "TIFF"))
    assert (picture[0, 0, 0], picture[1, 0, 0]) == expected
    array[0, 0] = np.nan
    with pytest.raises(Unreadable, match="no numbers"):
        read_picture(saved(array, "TIFF"))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_what_is_transparent_is_white_whatever_colour_hides_in_it(mode: str) -> None:
    alpha = Image.fromarray(np.where(np.arange(32) < 16, 255, 0).astype(np.uint8)[None].repeat(20, 0))
    picture = Image.new("RGB", (32, 20), (0, 0, 0)).convert("L" if mode == "LA" else "RGB")
    picture.putalpha(alpha)
    file = io.BytesIO()
    if mode in ("P", "PA"):
        flat = Image.fromarray((np.arange(32) >= 16).astype(np.uint8)[None].repeat(20, 0)).convert("P")
        flat.putpalette([0, 0, 0, 9, 9, 9])
        flat.save(file, "PNG", transparency=1)
    else:
        picture.save(file, "PNG")
    array, _ = read_picture(file.getvalue())
    assert (array[:, :16] == 0).all()
    assert (array[:, 16:] == 255).all()


def test_other_colours(tmp_path: Path) -> None:
    for mode in ("CMYK", "L", "1", "P", "YCbCr"):
        Image.fromarray(scene()).convert(mode).save(tmp_path / "a.tif")
        assert read_picture(tmp_path / "a.tif")[0].shape == (20, 32, 3)
    Image.fromarray(scene()).save(tmp_path / "two.gif", save_all=True, append_images=[Image.new("RGB", (32, 20), "white")])
    told: list[str] = []
    assert np.abs(read_picture(tmp_path / "two.gif", tell=told.append)[0].astype(int) - scene()).mean() < 20
    assert "several pages" in told[0]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"%PDF-1.4", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        (b"<svg xmlns=", "SVG"),
        (b"something else, " * 20, "no format"),
        (b"\xff\xd8\xff\xe0 cut", "damaged"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(Unreadable) as fault:
        read_picture(tmp_path / "a.jpg")
    assert said in str(fault.value)
    assert "a.jpg" in str(fault.value)


def test_the_limit_on_size_is_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)  # Pillow's own, which refuses from twice as many on
    data = saved(scene(), "PNG")
    with pytest.raises(Unreadable, match="more than 639 pixels"):
        read_picture(data, limit=639)
    assert read_picture(data, limit=640)[0].shape == (20, 32, 3)


def test_a_file_without_exif_is_not_searched_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def searched(_: Any) -> None:
        raise AssertionError("searched")

    monkeypatch.setattr(Image.Image, "getexif", searched)
    for form in ("JPEG", "PNG", "WEBP"):
        read_picture(saved(scene(), form))
