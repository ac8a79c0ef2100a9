"""Checks and reads what a user gives as a picture or a video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

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
        return np.asarray(given.convert("RGB"))
    array = np.asarray(given)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or 0 in array.shape:
        raise UserError(f"{what}: an array {array.shape} of {array.dtype} is no picture; pictures are [H, W, 3] uint8, RGB")
    return array


def read_picture(file: Path) -> np.ndarray:
    """[H, W, 3] uint8. Raises ``UserError`` for a file that is not there, no picture, or damaged."""
    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    except FileNotFoundError:
        raise UserError(f"{file}: not found") from None
    except UnidentifiedImageError:
        raise UserError(f"{file}: not a picture in a format that can be read, such as PNG or JPEG") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{file}: a damaged picture ({error})") from None


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


def read_visual(path: Path) -> np.ndarray | list[np.ndarray]:
    """A picture [H, W, 3] uint8, or the frames of a folder of pictures or of a video file. Raises ``UserError``."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        if not files:
            raise UserError(f"{path}: this folder holds no frames")
        return [read_picture(file) for file in files]
    if path.suffix.lower() not in (".mp4", ".mov", ".mkv", ".webm", ".avi"):
        return read_picture(path)
    import av  # only for videos

    try:
        with av.open(str(path)) as video:
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    except FileNotFoundError:
        raise UserError(f"{path}: not found") from None
    except (av.FFmpegError, IndexError) as error:
        raise UserError(f"{path}: not a video that can be read ({error})") from None
    if not frames:
        raise UserError(f"{path}: this video has no frames")
    return frames
