"""Exact frames of a video by number, through PyAV.

After a seek to the key frame before the first wanted one, frames are counted by their presentation times. Where those
are absent or not evenly spaced, the video is decoded from its beginning and frames are counted one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np

from core.contracts import BadSample
from plugins.datasets._index import MAX_PIXELS


class _Uneven(Exception):
    """Presentation times do not give frame numbers."""


def frames(path: Path, wanted: Sequence[int], sample: str) -> list[np.ndarray]:
    """[H, W, 3] uint8 RGB of each frame number in ``wanted``, which increases. Raises ``BadSample``."""
    try:
        try:
            return _collect(path, wanted, True, sample)
        except _Uneven:
            return _collect(path, wanted, False, sample)
    except FileNotFoundError as fault:
        raise BadSample("missing video", sample, str(path)) from fault
    except (av.error.FFmpegError, ValueError, IndexError) as fault:
        raise BadSample("damaged video", sample, f"{path}: {fault}") from fault


def _collect(path: Path, wanted: Sequence[int], seek: bool, sample: str) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        if codec is None:  # a stream that names no codec that is known
            raise BadSample("damaged video", sample, f"{path}: no decoder")
        if codec.width * codec.height > MAX_PIXELS:
            raise BadSample("picture too large", sample, f"{codec.width}x{codec.height}")
        codec.options = {"max_pixels": str(MAX_PIXELS)}  # frames may claim another size than the file's head
        for number, frame in _by_time(container, stream, wanted[0]) if seek else enumerate(container.decode(stream)):
            if number > wanted[len(found)]:
                if seek:
                    raise _Uneven
                break
            if number == wanted[len(found)]:
                found.append(frame.to_ndarray(format="rgb24"))  # [H, W, 3]
                if len(found) == len(wanted):
                    return found
    if seek:  # the end came early: perhaps the times mislead
        raise _Uneven
    raise BadSample("missing frame", sample, f"frame {wanted[len(found)]} of {path}")


def _by_time(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, first: int
) -> Iterator[tuple[int, av.VideoFrame]]:
    rate, unit, start = stream.average_rate, stream.time_base, stream.start_time
    if not rate or not unit or start is None:
        raise _Uneven
    container.seek(start + int(first / rate / unit), stream=stream, backward=True)
    for frame in container.decode(stream):
        if frame.pts is None:
            raise _Uneven
        place = float((frame.pts - start) * unit * rate)
        if abs(place - round(place)) > 0.1:
            raise _Uneven
        yield round(place), frame
