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

from typing import Any

import numpy as np
from pycocotools import mask as coco

from core.contracts import BadSample
from core.pixels import MAX_PIXELS


def decode(rle: Any, sample: str, factor: int = 1) -> np.ndarray:
    """[ceil(H / factor), ceil(W / factor)] bool. Raises ``BadSample`` for anything that is no valid run-length mask.

    Only the columns that hold something are expanded; with a ``factor`` the mask is that of ``reduced(decode(...))``.
    """
    height, width, runs = _runs(rle, sample)
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


def area(rle: Any, sample: str) -> int:
    """Pixels of the mask, without decoding it. Raises ``BadSample`` as ``decode`` does."""
    return int(_runs(rle, sample)[2][1::2].sum())


def annotated(annotation: dict[str, Any], height: int, width: int, sample: str) -> np.ndarray:
    """[height, width] bool of a COCO annotation. Raises ``BadSample`` also for an empty mask, and for run lengths that do not
    give its ``area``. That of polygons is not counted in pixels, so it is not compared; COCO's own crowds are up to 10 % off."""
    value, said = annotation.get("segmentation"), annotation.get("area")
    mask = segmentation(value, height, width, sample)
    found = np.count_nonzero(mask)
    if isinstance(value, dict) and isinstance(said, int | float):
        allowed = 100 + 0.25 * said if annotation.get("iscrowd") else 1 + 0.01 * said
        if not abs(found - said) <= allowed:  # NaN too
            raise BadSample("damaged mask", sample, f"{found} pixels where the file says {said}")
    if not found:
        raise BadSample("empty mask", sample)
    return mask


def segmentation(value: Any, height: int, width: int, sample: str) -> np.ndarray:
    """[height, width] bool of a COCO ``segmentation``: a list of polygons, OR-ed, or a run-length mask."""
    if isinstance(value, dict):
        mask = decode(value, sample)
        if mask.shape != (height, width):
            raise BadSample("mask and picture differ in size", sample, f"{mask.shape} and {(height, width)}")
        return mask
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise BadSample("mask too large", sample, f"{height}x{width}")
    polygons = [part for part in _polygons(value, sample) if part.size >= 6]  # with 4 numbers pycocotools sees a box
    if not polygons:
        raise BadSample("damaged mask", sample, "no polygon of three points")
    for part in polygons:  # [2 * points], x y x y ...
        points = part.reshape(-1, 2)
        low, high = points.min(axis=0), points.max(axis=0)
        # far-off points would make the rasteriser allocate in proportion to their distance
        if not np.isfinite(points).all() or min(low) < -max(height, width) or max(high) > 2 * max(height, width):
            raise BadSample("damaged mask", sample, "a polygon lies far outside the picture")
    merged = coco.merge(coco.frPyObjects([part.tolist() for part in polygons], height, width))
    return np.ascontiguousarray(coco.decode(merged)).astype(bool)  # [height, width]


def _polygons(value: Any, sample: str) -> list[np.ndarray]:
    try:
        polygons = [np.asarray(part, dtype=np.float64) for part in value]
    except (TypeError, ValueError) as fault:
        raise BadSample("damaged mask", sample, "the segmentation is neither polygons nor run lengths") from fault
    if any(part.ndim != 1 or part.size % 2 for part in polygons):
        raise BadSample("damaged mask", sample, "a polygon is no flat list of x, y pairs")
    return polygons


def _runs(rle: Any, sample: str) -> tuple[int, int, np.ndarray]:
    """(height, width, runs [n] int64), checked."""
    size = rle.get("size") if isinstance(rle, dict) else None
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        raise BadSample("damaged mask", sample, "no run-length mask with a size of [height, width]")
    height, width = size
    if height * width > MAX_PIXELS:
        raise BadSample("mask too large", sample, f"{height}x{width}")
    counts = rle.get("counts")
    runs = _expand(counts, sample) if isinstance(counts, str | bytes) else _listed(counts, sample)
    # one by one bounded first: a sum of absurd runs could wrap around to the right number
    if (runs < 0).any() or (runs > height * width).any() or int(runs.sum()) != height * width:
        raise BadSample("damaged mask", sample, f"the runs do not add up to {height}x{width}")
    return height, width, runs


def _listed(counts: Any, sample: str) -> np.ndarray:
    if not (isinstance(counts, list) and counts and all(type(run) is int and 0 <= run <= MAX_PIXELS for run in counts)):
        raise BadSample("damaged mask", sample, "counts is neither a string nor a list of run lengths")
    return np.array(counts, dtype=np.int64)


def _expand(counts: str | bytes, sample: str) -> np.ndarray:
    """[n] int64 runs of a compressed string."""
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
