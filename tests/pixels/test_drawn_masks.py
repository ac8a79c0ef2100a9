"""Masks stored as pictures: which pixels are the object's, and which objects a file holds."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from core.pixels import Label, Unreadable, check_label, labels_of, mask_of

H, W = 24, 40
VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0, *[7] * (252 * 3), 224, 224, 192]


def boxes(*values: int, void: int | None = None) -> np.ndarray:
    """[H, W] uint8: a box of 8 x 10 pixels for each value, side by side; ``void``: around the first."""
    array = np.zeros((H, W), np.uint8)
    if void is not None:
        array[3:13, 1:13] = void
    for place, value in enumerate(values):
        array[4:12, 2 + 12 * place : 12 + 12 * place] = value
    return array


def saved(picture: Image.Image | np.ndarray, form: str = "PNG", **how: Any) -> bytes:
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, form, **how)
    return file.getvalue()


def palette(array: np.ndarray, colours: list[int]) -> Image.Image:
    picture = Image.fromarray(array).convert("P")
    picture.putpalette(colours)
    return picture


def coloured(array: np.ndarray, **colours: tuple[int, int, int]) -> np.ndarray:
    out = np.zeros((H, W, 3), np.uint8)
    for value, colour in colours.items():
        out[array == int(value[1:])] = colour
    return out


ONE = boxes(1) > 0


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(ONE),
        Image.fromarray(boxes(1)),
        Image.fromarray(boxes(255)),
        Image.fromarray(boxes(77)),
        Image.fromarray(boxes(1).astype(np.uint16)),
        Image.fromarray(boxes(1).astype(np.int32)),
        Image.fromarray(boxes(1).astype(np.float32)),
        Image.fromarray(coloured(boxes(1), v1=(255, 0, 0))),
        Image.fromarray(coloured(boxes(1), v1=(255, 255, 255))),
        palette(boxes(1), VOC),
        palette(boxes(1, void=255), VOC),
        palette(boxes(255), [0, 0, 0, *[9] * 762, 255, 255, 255]),
        palette(1 - boxes(1), [255, 255, 255, 0, 0, 0]),  # black is number 1
    ],
)
def test_one_object_however_it_is_written(picture: Image.Image) -> None:
    form = "TIFF" if picture.mode in ("F", "I") else "PNG"
    np.testing.assert_array_equal(mask_of(saved(picture, form)), ONE)
    assert labels_of(saved(picture, form)) in (None, [1])


def test_a_soft_edge_belongs_to_its_object() -> None:
    soft = Image.fromarray(np.kron(boxes(255), np.ones((4, 4), np.uint8))).filter(ImageFilter.GaussianBlur(1))
    expected = np.asarray(soft) > 0
    for picture in (soft, soft.convert("RGB"), Image.merge("RGB", [soft, Image.new("L", soft.size), Image.new("L", soft.size)])):
        np.testing.assert_array_equal(mask_of(saved(picture)), expected)
    few = soft.quantize(16)  # packed into a palette, its numbers in any order
    np.testing.assert_array_equal(mask_of(saved(few)), np.asarray(few.convert("L")) > 0)


TWO = coloured(boxes(1, 2), v1=(255, 0, 0), v2=(0, 0, 255))


@pytest.mark.parametrize(
    ("data", "labels"),
    [
        (saved(palette(boxes(1, 2, void=255), VOC)), [1, 2]),
        (saved(palette(boxes(1, 2), VOC)), [1, 2]),
        (saved(boxes(1, 2, 3)), [1, 2, 3]),
        (saved(boxes(1, 2, void=255)), [1, 2]),
        (saved(boxes(40, 80, 200)), [40, 80, 200]),
        (saved(boxes(1, 2).astype(np.uint16) * 1000), [1000, 2000]),
        (saved(TWO), ["#0000ff", "#ff0000"]),
        (saved(coloured(boxes(1, 2, void=255), v1=(255, 0, 0), v2=(0, 0, 255), v255=(224, 224, 192))), ["#0000ff", "#ff0000"]),
    ],
)
def test_several_objects_in_one_file(data: bytes, labels: list[Label]) -> None:
    assert labels_of(data) == labels
    masks = [mask_of(data, label=label) for label in labels]
    assert [int(mask.sum()) for mask in masks] == [80] * len(labels)
    assert not (masks[0] & masks[1]).any()
    with pytest.raises(Unreadable, match="name one with label") as fault:
        mask_of(data)
    assert fault.value.reason == "several objects in one"
    assert mask_of(data, kind="binary").sum() >= 80 * len(labels)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (saved(boxes(1, void=255)), "255 is nobody's"),
        (saved(boxes(128, 255)), "255 is nobody's"),
        (saved(boxes(1, 2) + 1), "none of them 0 or black"),
        (saved(palette(boxes(1, 2), [120, 120, 120, 9, 9, 0, 0, 9, 9])), "number 0 of its palette"),
        (saved(np.random.default_rng(0).integers(0, 255, (H, W), np.uint8)), "without a clear object"),
        (saved(boxes(1, 2), "JPEG"), "blurred"),
        (saved(boxes(1, 2), "GIF", save_all=True, append_images=[Image.new("L", (W, H), 9)]), "several pages"),
    ],
)
def test_what_cannot_be_told_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(Unreadable, match=said):
        mask_of(data)


def test_as_asked() -> None:
    assert labels_of(saved(boxes(1, void=255)), kind="index") == [1]
    assert mask_of(saved(boxes(1, void=255)), kind="index").sum() == 80
    assert mask_of(saved(boxes(1, void=255)), kind="binary").sum() == 120
    assert labels_of(saved(palette(boxes(1, 2), [120, 120, 120, 9, 9, 0, 0, 9, 9])), kind="index") == [1, 2]
    assert not mask_of(saved(boxes(1)), label=7).any()
    assert mask_of(saved(coloured(boxes(1), v1=(200, 200, 200))), label="#c8c8c8").sum() == 80
    for good in (1, 65535, "#FF0000"):
        check_label(good)
    for bad in (0, -1, True, 1.5, "red", "#12345", None):
        with pytest.raises(ValueError, match="label is a number"):
            check_label(bad)


def shape(alpha: np.ndarray, colour: Any) -> Image.Image:
    picture = Image.fromarray(np.broadcast_to(np.array(colour, np.uint8), (H, W, 3)).copy())
    picture.putalpha(Image.fromarray((alpha * 255).astype(np.uint8)))
    return picture


def test_only_what_is_opaque() -> None:
    photo = np.random.default_rng(0).integers(0, 255, (H, W, 3), np.uint8)
    photo[5, 5] = 0  # black pixels of an object that is cut out belong to it
    cut = Image.fromarray(photo)
    cut.putalpha(Image.fromarray((ONE * 255).astype(np.uint8)))
    inside = shape(np.ones((H, W)), (0, 0, 0))
    inside.paste((255, 255, 255, 255), (2, 4, 12, 12))
    inside.putpixel((W - 1, H - 1), (255, 255, 255, 0))
    for picture in (shape(ONE, (255, 255, 255)), shape(ONE, (0, 0, 0)), shape(ONE, (9, 0, 0)), cut, inside, shape(ONE, 255).convert("LA")):
        np.testing.assert_array_equal(mask_of(saved(picture)), ONE)
    for transparent in (0, bytes([0, 255])):
        data = saved(palette(boxes(1), [255, 255, 255, 255, 0, 0]), transparency=transparent)
        np.testing.assert_array_equal(mask_of(data), ONE)
    np.testing.assert_array_equal(mask_of(saved(boxes(255), transparency=0)), ONE)
    assert mask_of(saved(shape(np.ones((H, W)), (255, 255, 255)))).all()


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "AVIF"])
def test_a_lossy_black_and_white_mask_is_thresholded_and_told(form: str) -> None:
    large = np.kron(boxes(255), np.ones((8, 8), np.uint8))
    told: list[str] = []
    mask = mask_of(saved(Image.fromarray(large).convert("RGB"), form, quality=70), tell=told.append)
    np.testing.assert_array_equal(mask, large > 0)
    assert form in told[0]


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_mask_with_an_orientation_is_turned_as_a_picture_is(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = {3: ONE[::-1, ::-1], 6: np.rot90(ONE, -1), 8: np.rot90(ONE)}[orientation]
    for form in ("PNG", "TIFF"):
        np.testing.assert_array_equal(mask_of(saved(boxes(1), form, exif=exif)), expected)
        np.testing.assert_array_equal(mask_of(saved(boxes(1), form, exif=exif), orientation="stored"), ONE)
