"""Masks of COCO's family of formats: compressed and uncompressed run lengths, and polygons.

A run-length mask is ``{"size": [height, width], "counts": ...}``, column-major, background first. ``counts`` is a str
or bytes (compressed) or a list of int (crowds). The compressed form is that of pycocotools' ``maskApi.c``: every run is
a little-endian chain of 5-bit groups offset by 48, and from the fourth on it is stored as a difference from the run
two before. Decoded here rather than in C so that a damaged string is refused instead of giving a wrong mask: the runs
must add up to exactly height x width.

A mask may be asked for at 1/2, 1/4 or 1/8 of its size, for a picture decoded so (``core.pixels``): a pixel is
set where at least half of the block that it stands for is.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pycocotools import mask as coco

from core.contracts import BadSample
from core.pixels import MAX_PIXELS

_PARTS = 10_000  # of one mask


def decode(rle: Any, sample: str, factor: int = 1, *, limit: int = MAX_PIXELS) -> np.ndarray:
    """[ceil(H / factor), ceil(W / factor)] bool. Raises ``BadSample`` for anything that is no valid run-length mask.

    Only the columns that hold something are expanded; with a ``factor`` the mask is that of ``reduced(decode(...))``. ``limit``: of
    pixels.
    """
    height, width, runs = _runs(rle, sample, limit)
    mask = np.zeros((-(-height // factor), -(-width // factor)), bool)
    on = np.flatnonzero(runs[1::2])
    if not len(on):
        return mask
    begin, end = 2 * on[0] + 1, 2 * on[-1] + 2  # the runs from the first to the last that is set
    before, after = int(runs[:begin].sum()), int(runs[end:].sum())  # pixels of background around them
    first, last = before // height // factor * factor, width - after // height  # their columns, from a block's beginning
    runs = np.concatenate([[before - first * height], runs[begin:end], [after % height]])
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)  # [(last - first) * H], column-major
    part = reduced(flat.reshape(last - first, height).T, factor, sample, width - first)
    mask[:, first // factor : first // factor + part.shape[1]] = part
    return mask


def reduced(mask: np.ndarray, factor: int, sample: str, width: int | None = None) -> np.ndarray:
    """[H, W] bool -> [ceil(H / factor), ceil(W / factor)] bool, set where at least half of the block's pixels are.

    ``width``: that of the picture where the mask is only its left part; pixels beyond the mask are not set. Raises ``BadSample``
    where nothing is left of it.
    """
    if factor == 1:
        return mask
    height, width = mask.shape[0], width or mask.shape[1]
    counts = np.zeros((-(-height // factor), -(-mask.shape[1] // factor)), np.uint8)  # of 64 at most
    for row in range(factor):
        for column in range(factor):
            part = mask[row::factor, column::factor].view(np.uint8)
            counts[: part.shape[0], : part.shape[1]] += part
    rows = np.minimum(factor, height - factor * np.arange(counts.shape[0]))  # pixels of a block; fewer at the edges
    columns = np.minimum(factor, width - factor * np.arange(counts.shape[1]))
    small = 2 * counts >= rows[:, None] * columns[None, :]
    if not small.any():
        raise BadSample("mask is lost at the drafted size", sample, f"1/{factor}")
    return small


def area(rle: Any, sample: str, *, limit: int = MAX_PIXELS) -> int:
    """Pixels of the mask, without decoding it. Raises ``BadSample`` as ``decode`` does."""
    return int(_runs(rle, sample, limit)[2][1::2].sum())


def annotated(
    annotation: dict[str, Any], height: int, width: int, sample: str, check: bool = True, *, limit: int = MAX_PIXELS
) -> np.ndarray:
    """[height, width] bool of a COCO annotation. Raises ``BadSample`` also for an empty mask, and, with ``check``, for run lengths that
    give neither the ``area`` nor the ``bbox`` of the annotation. The area of polygons is not counted in pixels and not compared."""
    value = annotation.get("segmentation")
    mask = segmentation(value, height, width, sample, limit=limit)
    found = int(np.count_nonzero(mask))
    if not found:
        raise BadSample("empty mask", sample)
    if check and isinstance(value, dict) and (fault := _unlike(annotation, mask, found)):
        raise BadSample("mask is not that of its area and box", sample, f"{fault}; areas: ignore takes it")
    return mask


def same_area(found: int, said: Any, crowd: bool = False) -> bool:
    """Whether ``found`` pixels are the ``area`` that the file says; COCO's own crowds are up to 10 % off."""
    said = _number(said)
    if said is None:
        return False
    return bool(abs(found - said) <= (100 + 0.25 * said if crowd else 1 + 0.01 * said))  # False for NaN too


def _number(value: Any) -> float | None:
    """Of an area, which may be written as text; None for what is no number, NaN for one that no area has."""
    try:
        number = float(value) if isinstance(value, int | float | str) else None
    except OverflowError:
        return math.nan
    except ValueError:
        return None
    return math.nan if number is not None and math.isinf(number) else number


def _unlike(annotation: dict[str, Any], mask: np.ndarray, found: int) -> str:
    """How the mask differs from what its annotation says of it; empty where it is alike, or where nothing is said.

    Exporters write the area of the box, of the picture, of an outline, or 0: then the box decides, which a damaged mask has not.
    """
    said, box = _number(annotation.get("area")), annotation.get("bbox")
    if said is None or same_area(found, said, bool(annotation.get("iscrowd"))):
        return ""
    if isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box) and any(box[2:]):
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        ends = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
        given = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
        if all(abs(one - other) <= 2 for one, other in zip(ends, given, strict=True)):
            return ""
        return f"{found} pixels in {ends} (x, y to x, y), where the file says area {said:g} and the box {given}"
    if said == 0 or said == mask.size or abs(found - said) <= 0.25 * said:  # an outline's area
        return ""
    return f"{found} pixels, where the file says area {said:g}"


def segmentation(value: Any, height: int, width: int, sample: str, *, limit: int = MAX_PIXELS) -> np.ndarray:
    """[height, width] bool of a COCO ``segmentation``, all its parts OR-ed: polygons, one polygon alone, a run-length mask, or several."""
    if isinstance(value, dict):
        mask = decode(value if value.get("size") else {**value, "size": [height, width]}, sample, limit=limit)
        if mask.shape != (height, width):
            raise BadSample("mask and picture differ in size", sample, f"{mask.shape} and {(height, width)}")
        return mask
    if isinstance(value, list) and value and all(isinstance(part, dict) and "counts" in part for part in value):  # as in COCO-Stuff 10k
        return np.logical_or.reduce([segmentation(part, height, width, sample, limit=limit) for part in value[:_PARTS]])
    if height < 1 or width < 1 or height * width > limit:
        raise BadSample("mask too large", sample, _large(height, width, limit))
    polygons = [part for part in _polygons(value, sample) if part.size >= 6]  # with 4 numbers pycocotools sees a box
    if not polygons:
        raise BadSample("damaged mask", sample, "no polygon of three points")
    low, high = min(part.min() for part in polygons), max(part.max() for part in polygons)
    if low >= 0 and high <= 1 and min(height, width) > 1:
        raise BadSample("polygon in shares of the picture", sample, "all its numbers lie in 0..1: multiply them by width and height")
    for part in polygons:  # [2 * points], x y x y ...
        points = part.reshape(-1, 2)
        # far-off points would make the rasteriser allocate in proportion to their distance
        if not np.isfinite(points).all() or points.min() < -max(height, width) or points.max() > 2 * max(height, width):
            raise BadSample("polygon outside the picture", sample, f"{points.min():g} to {points.max():g} of {width}x{height}")
    merged = coco.merge(coco.frPyObjects([part.tolist() for part in polygons], height, width))
    return np.ascontiguousarray(coco.decode(merged)).astype(bool)  # [height, width]


def _polygons(value: Any, sample: str) -> list[np.ndarray]:
    """[2 * points] float64 each. One polygon may stand without a list around it, and points may be pairs."""
    if not isinstance(value, list | tuple):
        raise BadSample("damaged mask", sample, "the segmentation is neither polygons nor run lengths")
    alone = bool(value) and not any(isinstance(part, list | tuple) for part in value)  # x, y, x, y, ...
    pairs = len(value) >= 3 and all(isinstance(part, list | tuple) and len(part) == 2 for part in value)  # [x, y], [x, y], ...
    try:
        polygons = [np.asarray(part, dtype=np.float64) for part in ([value] if alone or pairs else value)]
    except (TypeError, ValueError) as fault:
        raise BadSample("damaged mask", sample, "the segmentation is neither polygons nor run lengths") from fault
    polygons = [part.reshape(-1) if part.ndim == 2 and part.shape[1] == 2 else part for part in polygons]
    if any(part.ndim != 1 or part.size % 2 for part in polygons):
        raise BadSample("damaged mask", sample, "a polygon has an odd number of coordinates, or is no list of x, y pairs")
    return polygons


def _large(height: int, width: int, limit: int) -> str:
    return f"{width}x{height}, more than {limit:,} pixels; where the file is to be trusted, raise max_pixels if the source has it"


def _runs(rle: Any, sample: str, limit: int) -> tuple[int, int, np.ndarray]:
    """(height, width, runs [n] int64), checked."""
    size = rle.get("size") if isinstance(rle, dict) else None
    if isinstance(size, list | tuple):  # also as floats
        size = [int(side) if isinstance(side, float) and side.is_integer() else side for side in size]
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        raise BadSample("damaged mask", sample, "no run-length mask with a size of [height, width]")
    height, width = size
    if height * width > limit:
        raise BadSample("mask too large", sample, _large(height, width, limit))
    counts = rle.get("counts")
    runs = _expand(counts, sample) if isinstance(counts, str | bytes) else _listed(counts, sample, limit)
    # one by one bounded first: a sum of absurd runs could wrap around to the right number
    if (runs < 0).any() or (runs > height * width).any() or int(runs.sum()) != height * width:
        raise BadSample("damaged mask", sample, f"the runs do not add up to {height}x{width}")
    return height, width, runs


def _listed(counts: Any, sample: str, limit: int) -> np.ndarray:
    if not (isinstance(counts, list) and counts and all(type(run) in (int, float) and 0 <= run <= limit for run in counts)):
        raise BadSample("damaged mask", sample, "counts is neither a string nor a list of run lengths")
    runs = np.array(counts, dtype=np.float64).astype(np.int64)  # exact: floats hold whole numbers of that size
    if (runs != counts).any():
        raise BadSample("damaged mask", sample, "counts holds parts of pixels")
    return runs


def _expand(counts: str | bytes, sample: str) -> np.ndarray:
    """[n] int64 runs of a compressed string."""
    if isinstance(counts, str) and counts[:2] in ("b'", 'b"'):  # Python's notation of bytes, which json.dumps(str(counts)) leaves
        counts = counts[2:-1].replace("\\\\", "\\")
    data = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    groups = np.frombuffer(data, dtype=np.uint8).astype(np.int64) - 48  # [c], 5 bits, 0x20: the run goes on
    if not len(groups) or groups.min() < 0 or groups.max() > 0x3F or groups[-1] & 0x20:
        raise BadSample("damaged mask", sample, "the counts string is cut or holds other characters")
    ends = np.flatnonzero((groups & 0x20) == 0)  # [n]
    starts = np.concatenate([[0], ends[:-1] + 1])  # [n]
    place = np.arange(len(groups)) - np.repeat(starts, ends - starts + 1)  # [c], a group's place in its run
    if place.max() > 6:  # 35 bits are more than MAX_PIXELS needs, and the shifts below stay inside int64
        raise BadSample("damaged mask", sample, "the counts string holds an endless run")
    runs = np.add.reduceat((groups & 0x1F) << (5 * place), starts)  # [n]
    runs -= ((groups[ends] & 0x10) != 0).astype(np.int64) << (5 * (place[ends] + 1))  # the sign bit of the last group
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
