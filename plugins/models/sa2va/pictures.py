"""Checks and reads what a user gives as a picture or a video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from core import pixels
from core.contracts import UserError

Picture: TypeAlias = np.ndarray | Image.Image | Path | str  # [H, W, 3] or [H, W] uint8, a PIL picture, or a file


def frames_of(visual: Picture | Sequence[Picture]) -> tuple[list[np.ndarray], bool]:
    """Frames [H, W, 3] uint8 of one size, and whether they are a video: a sequence of pictures, or [n, H, W, 3] uint8.

    Raises ``UserError`` for what is no picture, or no frames, or frames of different sizes.
    """
    if isinstance(visual, Path | str | Image.Image) or (isinstance(visual, np.ndarray) and visual.ndim < 4):
        return [_picture(visual, "image")], False
    frames = [_picture(frame, f"frame {number}") for number, frame in enumerate(visual)]
    if not frames:
        raise UserError("the video has no frames")
    for number, frame in enumerate(frames):
        if frame.shape != frames[0].shape:
            sizes = " and ".join(f"{shape[1]} x {shape[0]}" for shape in (frames[0].shape, frame.shape))
            raise UserError(f"frame {number}: frames 0 and {number} have different sizes ({sizes}); a video's frames have one size")
    return frames, True


def _picture(given: Picture, what: str) -> np.ndarray:
    if isinstance(given, Path | str):
        return read_picture(Path(given))
    if isinstance(given, Image.Image):
        return _shown(given, what)
    array = np.asarray(given)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or 0 in array.shape:
        raise UserError(f"{what}: an array {array.shape} of {array.dtype} is no picture; pictures are [H, W, 3] uint8, RGB")
    return array


def _shown(given: Image.Image, what: str) -> np.ndarray:
    """[H, W, 3] uint8 of a PIL picture, as a file of it would be read."""
    try:
        rgb = pixels.rgb_of(given)
    except pixels.Unreadable as fault:
        raise UserError(f"{what}: {fault.detail}") from None
    orientation = pixels.orientation_of(given)  # 1 for one that was not opened from a file, or has been turned already
    return pixels.turned(rgb, orientation) if orientation != 1 else rgb


def read_picture(file: Path) -> np.ndarray:
    """[H, W, 3] uint8, as it is shown. Raises ``UserError`` for a file that is not there, no picture, or damaged."""
    try:
        return pixels.read_picture(file)[0]
    except pixels.Unreadable as fault:
        if fault.reason == "missing":
            raise UserError(f"{file}: not found") from None
        if fault.reason == "unknown":
            raise UserError(f"{file}: not a picture in a format that can be read, such as PNG or JPEG") from None
        reasons = {"too large": "a picture that is too large", "damaged": "a damaged picture"}
        said = fault.detail.removeprefix(f"{file}: ")
        raise UserError(f"{file}: {reasons.get(fault.reason, f'{fault.reason} picture')} ({said})") from None


def check_regions(regions: np.ndarray, image: np.ndarray) -> np.ndarray:
    """[n, H, W] bool. Raises ``UserError`` for masks that are not of the picture's size, or empty."""
    masks = np.asarray(regions)
    if masks.ndim == 2:
        masks = masks[None]
    if masks.ndim != 3 or masks.shape[1:] != image.shape[:2]:
        raise UserError(f"regions: masks {masks.shape} of a picture of {image.shape[0]} x {image.shape[1]}; give [n, H, W] bool")
    masks = masks.astype(bool)
    if empty := [number for number, mask in enumerate(masks, 1) if not mask.any()]:
        raise UserError(f"regions: region {', '.join(map(str, empty))} is empty")
    return masks
