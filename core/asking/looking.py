"""What is asked about: a picture or the frames of a video, and regions in it as boxes, points, outlines or mask files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from core import pixels
from core.contracts import UserError

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
MOST_BYTES = 4 * 2**30  # of all frames together
POINT = 1 / 20  # radius of the disc that a point stands for, as a share of the picture's shorter side

_NUMBER = r"\s*-?\d+(?:\.\d*)?\s*"
_NUMBERS = re.compile(f"{_NUMBER}(?:,{_NUMBER})*")


def read_visual(path: Path, every: int = 1, most: int | None = None) -> np.ndarray | list[np.ndarray]:
    """A picture [H, W, 3] uint8; of a folder of pictures (in the order of their names) or a video file every ``every``-th frame.

    ``most``: of a video file that has more frames fewer are taken, evenly spaced. Raises ``UserError``.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))[::every]
        if not files:
            raise UserError(f"{path}: this folder holds no frames")
        frames: list[np.ndarray] = []
        for file in files:
            frames.append(_picture(file))
            if frames[-1].shape != frames[0].shape:
                sizes = " and ".join(f"{one.shape[1]} x {one.shape[0]}" for one in (frames[0], frames[-1]))
                raise UserError(f"{files[0].name} and {file.name} in {path} have different sizes ({sizes}); a video's frames have one size")
            _bounded(frames, path)
        return frames
    if every != 1 and path.suffix.lower() not in VIDEOS:
        raise UserError(f"{path} is one picture: --every goes with a video or a folder of frames")
    return _video(path, every, most) if path.suffix.lower() in VIDEOS else _picture(path)


def _picture(file: Path) -> np.ndarray:
    try:
        return pixels.read_picture(file)[0]
    except pixels.Unreadable as fault:
        raise _told(fault, file, "picture") from None


def _video(path: Path, every: int, most: int | None) -> list[np.ndarray]:
    from core.pixels.videos import all_frames  # late: only videos need it

    frames: list[np.ndarray] = []
    try:
        for number, frame in enumerate(all_frames(path)):
            if number % every == 0 and len(frames) == most:  # how many there are is only known at the end
                frames, every = frames[::2], 2 * every
            if number % every == 0:
                frames.append(frame)
                _bounded(frames, path)
    except pixels.Unreadable as fault:
        raise _told(fault, path, "video") from None
    if not frames:
        raise UserError(f"{path}: this video has no frames")
    return frames


def _bounded(frames: list[np.ndarray], path: Path) -> None:
    if len(frames) * frames[0].nbytes > MOST_BYTES:
        raise UserError(
            f"{path}: more than {len(frames) - 1} frames of this size do not fit in {MOST_BYTES >> 30} GiB; take some: --every 10"
        )


def _told(fault: pixels.Unreadable, file: Path, what: str) -> UserError:
    if fault.reason == "missing":
        return UserError(f"{file}: not found")
    if fault.reason == "unknown":
        return UserError(f"{file}: not a {what} in a format that can be read, such as PNG, JPEG or MP4")
    return UserError(f"{file}: this {what} cannot be read: {fault.reason} ({fault.detail.removeprefix(f'{file}: ')})")


def read_region(written: str, height: int, width: int) -> np.ndarray:
    """[H, W] bool: the box ``x0,y0,x1,y1`` (pixels, x1 and y1 outside it), a disc around the point ``x,y``, the inside of an outline
    ``x,y,x,y,x,y,...``, or a mask file. Raises ``UserError``.
    """
    if not _NUMBERS.fullmatch(written) or Path(written).is_file():
        return _mask_file(Path(written), height, width)
    numbers = [float(part) for part in written.split(",")]
    picture = f"the picture has {width} x {height} pixels"
    if len(numbers) == 2:
        x, y = numbers
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(f"region {written}: the point x,y lies outside; {picture}")
        down, across = np.mgrid[:height, :width]  # [H, W] each: row and column of every pixel
        radius = max(1.0, POINT * min(height, width))
        return np.asarray((across + 0.5 - x) ** 2 + (down + 0.5 - y) ** 2 <= radius**2)
    if len(numbers) >= 6 and len(numbers) % 2 == 0:
        return _inside(written, numbers, height, width)
    if len(numbers) != 4:
        kinds = "two numbers x,y are a point, four x0,y0,x1,y1 a box, six or more x,y,x,y,x,y the corners of an outline"
        raise UserError(f"region {written}: {kinds}; anything else is the file of a mask")
    x0, y0, x1, y1 = numbers
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise UserError(f"region {written}: a box is x0,y0,x1,y1 with x0 < x1 and y0 < y1, in pixels inside the picture; {picture}")
    mask = np.zeros((height, width), dtype=bool)
    mask[round(y0) : round(y1), round(x0) : round(x1)] = True
    if not mask.any():
        raise UserError(f"region {written}: this box holds no pixel (boxes are given in pixels, not in shares); {picture}")
    return mask


def _inside(written: str, numbers: list[float], height: int, width: int) -> np.ndarray:
    """[H, W] bool: the pixels inside the outline with these corners, its edge included."""
    corners = list(zip(numbers[::2], numbers[1::2], strict=True))
    if not all(0 <= x <= width and 0 <= y <= height for x, y in corners):
        raise UserError(f"region {written}: a corner of the outline lies outside; the picture has {width} x {height} pixels")
    canvas = Image.new("1", (width, height))
    ImageDraw.Draw(canvas).polygon(corners, fill=1, outline=1)
    return np.asarray(canvas)


def _mask_file(file: Path, height: int, width: int) -> np.ndarray:
    try:
        mask = pixels.mask_of(file, kind="binary")
    except pixels.Unreadable as fault:
        if fault.reason == "missing":
            raise UserError(f"region {file}: not found; write a box x0,y0,x1,y1, a point x,y, or the file of a mask") from None
        raise _told(fault, file, "mask") from None
    if mask.shape != (height, width):
        raise UserError(f"{file}: {mask.shape[1]} x {mask.shape[0]} pixels; the picture has {width} x {height}")
    if not mask.any():
        raise UserError(f"{file}: this mask is empty")
    return mask
