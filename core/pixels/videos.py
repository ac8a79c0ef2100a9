"""Frames of a video by number, through PyAV: frame n is the n-th that is shown, turned as it is shown.

Times say nothing about numbers: recorders drop frames, hold them longer, or have no even rate. So the times of all packets are read
once, without decoding; in order they are the frames' own numbers. A wanted frame is then decoded from the key frame before it and
known by its time. Where times are absent or stand twice, the video is decoded from its beginning and frames are counted.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type

from core.pixels.files import MAX_PIXELS, Unreadable
from core.pixels.turning import MATRICES, turned


class _NoTimes(Exception):
    """Times do not tell the frames apart, or not the ones that come."""


def read_frames(path: Path, wanted: Sequence[int], limit: int = MAX_PIXELS) -> list[np.ndarray]:
    """[H, W, 3] uint8 RGB of each frame number in ``wanted``, which increases; 0 is the first that is shown. Raises ``Unreadable``."""
    try:
        state = path.stat()
        try:
            return _by_time(path, wanted, _times(path, state.st_size, state.st_mtime_ns, limit), limit)
        except _NoTimes:
            return _by_counting(path, wanted, limit)
    except FileNotFoundError as fault:
        raise Unreadable("missing", str(path)) from fault
    except (av.error.FFmpegError, OSError, ValueError, IndexError) as fault:
        raise Unreadable("damaged", f"{path}: {fault}") from fault


def all_frames(path: Path, limit: int = MAX_PIXELS) -> Iterator[np.ndarray]:
    """[H, W, 3] uint8 RGB of every frame, in the order in which they are shown. Raises ``Unreadable``."""
    try:
        with av.open(str(path)) as container:
            stream = _stream(container, path, limit)
            for frame in container.decode(stream):
                yield _rgb(frame)
    except FileNotFoundError as fault:
        raise Unreadable("missing", str(path)) from fault
    except (av.error.FFmpegError, ValueError, IndexError) as fault:
        raise Unreadable("damaged", f"{path}: {fault}") from fault


@lru_cache(maxsize=64)
def _times(path: Path, size: int, changed: int, limit: int) -> tuple[int, ...]:
    """When each frame is shown, in the stream's unit, increasing; kept for as long as the file's size and time of change are the same."""
    with av.open(str(path)) as container:
        stream = _stream(container, path, limit)
        packets = [
            packet for packet in container.demux(stream) if packet.size and not packet.is_discard
        ]  # discarded: cut off by an edit list
        times = sorted(packet.pts for packet in packets if packet.pts is not None)
    if not times or len(times) < len(packets) or len(set(times)) < len(times):
        raise _NoTimes
    with av.open(str(path)) as container:  # packets before the first frame that can be decoded are not shown either
        first = next(iter(container.decode(_stream(container, path, limit))))
    if first.pts not in times[:64]:
        raise _NoTimes
    return tuple(times[bisect_left(times, first.pts) :])


def _by_time(path: Path, wanted: Sequence[int], times: Sequence[int], limit: int) -> list[np.ndarray]:
    if wanted[-1] >= len(times):
        raise _NoTimes  # counted to the end before it is said that there is no such frame
    targets = [times[number] for number in wanted]
    found: list[np.ndarray] = []
    with av.open(str(path)) as container:
        stream = _stream(container, path, limit)
        container.seek(targets[0], stream=stream, backward=True)
        for frame in container.decode(stream):
            if frame.pts is None or frame.pts > targets[len(found)]:  # the key frame came too late, or the frame was not decoded
                raise _NoTimes
            if frame.pts == targets[len(found)]:
                found.append(_rgb(frame))
                if len(found) == len(targets):
                    return found
    raise _NoTimes


def _by_counting(path: Path, wanted: Sequence[int], limit: int) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    number = -1
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(_stream(container, path, limit))):
            if number == wanted[len(found)]:
                found.append(_rgb(frame))
                if len(found) == len(wanted):
                    return found
    raise Unreadable("no such frame in", f"frame {wanted[len(found)]} of {path}, which shows {number + 1}")


def _stream(container: av.container.InputContainer, path: Path, limit: int) -> av.video.stream.VideoStream:
    stream = container.streams.video[0]
    codec = stream.codec_context
    if codec is None:  # a stream that names no codec that is known
        raise Unreadable("damaged", f"{path}: no decoder")
    if codec.width * codec.height > limit:
        raise Unreadable("too large", f"{path}: {codec.width}x{codec.height}, more than {limit:,} pixels")
    codec.options = {"max_pixels": str(limit)}  # frames may claim another size than the file's head
    return stream


def _rgb(frame: av.VideoFrame) -> np.ndarray:
    """[H, W, 3] uint8, turned as its display matrix says."""
    pixels = frame.to_ndarray(format="rgb24")  # [H, W, 3]
    side: Any = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]  # its stub knows names only
    if side is None:
        return pixels
    a, b, _, c, d = struct.unpack("=5i", bytes(side)[:20])
    largest = max(abs(a), abs(b), abs(c), abs(d)) or 1
    signs = tuple(round(value / largest) for value in (a, b, c, d))
    if signs not in MATRICES:
        raise Unreadable("no upright", "its frames are turned by an angle that is no multiple of 90 degrees")
    return turned(pixels, MATRICES[signs])
