from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from core.contracts import BadSample
from plugins.datasets import _rle

ANY_MASK = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40))


def encoded(mask: np.ndarray) -> dict:
    return coco.encode(np.asfortranarray(mask, dtype=np.uint8))


@given(ANY_MASK, st.booleans())
def test_compressed_runs_decode_as_pycocotools_encodes_them(mask: np.ndarray, as_text: bool) -> None:
    rle = encoded(mask)
    if as_text:
        rle["counts"] = rle["counts"].decode()
    np.testing.assert_array_equal(_rle.decode(rle, "x"), mask)
    assert _rle.area(rle, "x") == mask.sum()


def test_long_runs_of_a_large_mask() -> None:
    mask = np.zeros((1500, 2250), bool)
    mask[200:1400, 300:2000] = True
    mask[600:700, 500:900] = False
    np.testing.assert_array_equal(_rle.decode(encoded(mask), "x"), mask)


def test_uncompressed_runs_are_column_major_and_start_with_background() -> None:
    expected = np.array([[0, 1], [1, 1], [1, 0]], bool)
    np.testing.assert_array_equal(_rle.decode({"size": [3, 2], "counts": [1, 4, 1]}, "x"), expected)
    np.testing.assert_array_equal(_rle.segmentation({"size": [3, 2], "counts": [1, 4, 1]}, 3, 2, "x"), expected)


def test_empty_mask_of_sa_v() -> None:
    rle = encoded(np.zeros((848, 480), bool))
    assert _rle.area(rle, "x") == 0
    assert not _rle.decode(rle, "x").any()


@pytest.mark.parametrize(
    "rle",
    [
        None,
        [1, 2],
        {"counts": [4]},
        {"size": [2, 2]},
        {"size": [2, 2], "counts": [3]},
        {"size": [2, 2], "counts": [5]},
        {"size": [2, 2], "counts": [6, -2]},
        {"size": [2, 2], "counts": [3.5, 0.5]},
        {"size": [2, 2], "counts": []},
        {"size": [2, 2], "counts": ""},
        {"size": [2, 2], "counts": "é"},
        {"size": [2, 2], "counts": "\x00\x01"},
        {"size": [2, 2], "counts": b"\xff\xff"},
        {"size": [2, 2], "counts": "ooooooooooooooooooooooooo0"},
        {"size": [2, 2], "counts": "oo"},
        {"size": [2, 2], "counts": "T" + 30 * "P" + "0"},
        {"size": [2.5, 2], "counts": [5]},
        {"size": [-2, -2], "counts": [4]},
        {"size": [0, 2], "counts": [0]},
        {"size": [2, 2, 1], "counts": [4]},
    ],
)
def test_damaged_runs_are_bad_samples(rle: object) -> None:
    with pytest.raises(BadSample, match="damaged mask"):
        _rle.decode(rle, "x")


@given(ANY_MASK, st.data())
def test_a_cut_or_mistyped_string_never_gives_a_mask_of_another_size(mask: np.ndarray, data: st.DataObject) -> None:
    rle = encoded(mask)
    counts = bytearray(rle["counts"])
    counts[data.draw(st.integers(0, len(counts) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(counts[: data.draw(st.integers(1, len(counts)))])
    try:
        decoded = _rle.decode({"size": rle["size"], "counts": cut}, "x")
    except BadSample:
        return
    assert decoded.shape == mask.shape


def test_a_claimed_size_of_terabytes_allocates_nothing() -> None:
    for size in ([1_000_000, 1_000_000], [10**30, 10**30]):
        with pytest.raises(BadSample, match="mask too large"):
            _rle.decode({"size": size, "counts": [size[0] * size[1]]}, "x")
        with pytest.raises(BadSample, match="mask too large"):
            _rle.segmentation([[0, 0, 1, 0, 1, 1]], *size, "x")


def test_overlapping_polygons_are_joined_not_added() -> None:
    left, right = [1.0, 1, 6, 1, 6, 6, 1, 6], [3.0, 3, 9, 3, 9, 9, 3, 9]
    both = _rle.segmentation([left, right], 10, 12, "x")
    np.testing.assert_array_equal(both, _rle.segmentation([left], 10, 12, "x") | _rle.segmentation([right], 10, 12, "x"))
    assert both.dtype == bool
    assert both.shape == (10, 12)


@pytest.mark.parametrize(
    "value",
    [
        *([], None, 3, [[1, 2, 3, 4]], [[1, 2, 3, 4, 5]], ["abc"], [[[1, 2], [3, 4]]]),
        *([[0, 0, 1e12, 0, 1e12, 1e12]], [[0, 0, float("nan"), 0, 1, 1]]),
    ],
)
def test_polygons_that_are_none_are_bad_samples(value: object) -> None:
    with pytest.raises(BadSample, match=r"damaged mask|polygon outside the picture"):
        _rle.segmentation(value, 10, 10, "x")


SQUARE = np.pad(np.ones((4, 4), bool), ((2, 4), (2, 14)))  # [10, 20]
FLAT = [2, 2, 6, 2, 6, 6, 2, 6]
RUNS = {"size": [10, 20], "counts": [22, 4, 6, 4, 6, 4, 6, 4, 144]}


@pytest.mark.parametrize(
    "value",
    [
        [FLAT],
        FLAT,
        tuple(FLAT),
        [[[2, 2], [6, 2], [6, 6], [2, 6]]],
        [[2, 2], [6, 2], [6, 6], [2, 6]],
        [[str(number) for number in FLAT]],
        [[*FLAT, *FLAT[:2]], [1, 1, 5, 5]],
        RUNS,
        [RUNS],
        [RUNS, RUNS],
        {"size": [10.0, 20], "counts": [float(run) for run in RUNS["counts"]]},
        {"size": None, "counts": RUNS["counts"]},
        {"counts": RUNS["counts"]},
        {"size": [10, 20], "counts": coco.encode(np.asfortranarray(SQUARE, dtype=np.uint8))["counts"].decode()},
        {"size": [10, 20], "counts": str(coco.encode(np.asfortranarray(SQUARE, dtype=np.uint8))["counts"])},
    ],
)
def test_every_way_of_writing_one_mask(value: Any) -> None:
    np.testing.assert_array_equal(_rle.segmentation(value, 10, 20, "x"), SQUARE)


def test_shares_of_the_picture_are_no_pixels() -> None:
    with pytest.raises(BadSample, match="multiply them by width and height"):
        _rle.segmentation([[0.1, 0.1, 0.5, 0.1, 0.5, 0.9]], 10, 20, "x")


@pytest.mark.parametrize(
    ("said", "fits"),
    [
        ({"area": 16}, True),
        ({"area": None}, True),
        ({"area": "16"}, True),
        ({"area": "?"}, True),  # says nothing
        ({"area": [16]}, True),
        ({"area": 10**400}, False),
        ({"area": "99", "bbox": None}, False),
        ({"area": 0}, True),
        ({"area": 200}, True),  # the picture's
        ({"area": 16.0, "bbox": [0, 0, 1, 1]}, True),  # the area is enough
        ({"area": 9999, "bbox": [2, 2, 4, 4]}, True),  # the box is, too
        ({"area": 9999, "bbox": [2, 2, 3, 3]}, True),  # the largest places themselves, as in SA-1B
        ({"area": 9999, "bbox": [9, 2, 4, 4]}, False),
        ({"area": 9999}, False),
        ({"area": 9999, "bbox": [0, 0, 0, 0]}, False),
        ({"area": float("nan")}, False),
        ({"area": 0.08, "bbox": [0.1, 0.2, 0.2, 0.4]}, False),
    ],
)
def test_an_area_that_is_not_the_mask_s_is_judged_by_the_box(said: dict[str, Any], fits: bool) -> None:
    annotation = {"segmentation": RUNS, **said}
    assert _rle.annotated(annotation, 10, 20, "x", check=False).sum() == 16
    if fits:
        assert _rle.annotated(annotation, 10, 20, "x").sum() == 16
        return
    with pytest.raises(BadSample, match=r"16 pixels.*areas: ignore"):
        _rle.annotated(annotation, 10, 20, "x")


def test_run_lengths_of_another_size_than_the_picture() -> None:
    with pytest.raises(BadSample, match="differ in size"):
        _rle.segmentation({"size": [2, 3], "counts": [6]}, 3, 2, "x")


@given(ANY_MASK, st.sampled_from([2, 4, 8]))
def test_a_reduced_mask_is_set_where_half_of_a_block_is(mask: np.ndarray, factor: int) -> None:
    rows, columns = (range(0, side, factor) for side in mask.shape)
    expected = np.array([[2 * mask[i : i + factor, j : j + factor].mean() >= 1 for j in columns] for i in rows])
    for way in (lambda: _rle.decode(encoded(mask), "x", factor), lambda: _rle.reduced(mask, factor, "x")):
        try:
            np.testing.assert_array_equal(way(), expected)
        except BadSample:
            assert not expected.any()
