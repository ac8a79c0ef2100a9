"""Frame n of a video is the n-th that is shown: equal to a decode of the whole file, whatever its times are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from core.pixels import Unreadable, videos
from core.pixels.turning import turned

COUNT = 40


def write(path: Path, times: Sequence[int], *, codec: str = "libx264", rotation: float | None = None, **options: str) -> Path:
    """A corner brighter than the rest, and 5 grey levels from frame to frame; B-frames and distant key frames."""
    with av.open(str(path), "w", options={} if path.suffix != ".mp4" else {"movflags": "use_metadata_tags"}) as container:
        stream = container.add_stream(codec, rate=24, options={"g": "12", "bf": "2", **options} if codec == "libx264" else options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for number, time in enumerate(times):
            array = np.full((48, 64, 3), 5 * number, np.uint8)
            array[:16, :16] = 255
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


EVEN = list(range(COUNT))
TIMES = {
    "even": EVEN,
    "one left out": [number + (number > 5) for number in EVEN],
    "many left out": [number + number // 3 for number in EVEN],
    "one held long": [number + 50 * (number > 20) for number in EVEN],
    "variable": np.cumsum(np.random.default_rng(0).integers(1, 9, COUNT)).tolist(),
    "begins late": [number + 100 for number in EVEN],
}


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_equal_to_a_decode_of_the_whole_file(tmp_path: Path, suffix: str, name: str) -> None:
    path = write(tmp_path / f"v{suffix}", TIMES[name])
    whole = list(videos.all_frames(path))
    assert len(whole) == COUNT
    for wanted in ([0], [5, 6, 7], [11, 12, 13], [21, 39], [39]):
        for number, frame in zip(wanted, videos.read_frames(path, wanted), strict=True):
            np.testing.assert_array_equal(frame, whole[number])
            assert abs(int(frame[30, 40, 0]) - 5 * number) <= 4
    with pytest.raises(Unreadable, match=f"which shows {COUNT}"):
        videos.read_frames(path, [3, COUNT])


@pytest.mark.parametrize("options", [{"bf": "0"}, {"bf": "3", "b-pyramid": "normal"}, {"x264-params": "open-gop=1:keyint=10:bframes=3"}])
def test_other_orders_of_coding(tmp_path: Path, options: dict[str, str]) -> None:
    path = write(tmp_path / "v.mp4", TIMES["many left out"], **options)
    whole = list(videos.all_frames(path))
    for number in range(0, COUNT, 3):
        np.testing.assert_array_equal(videos.read_frames(path, [number])[0], whole[number])


def test_a_file_without_times_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "v.avi", EVEN, codec="mpeg4")
    whole = list(videos.all_frames(path))
    assert abs(int(whole[30][30, 40, 0]) - 150) <= 8
    for wanted in ([0, 1], [17, 30]):
        for number, frame in zip(wanted, videos.read_frames(path, wanted), strict=True):
            np.testing.assert_array_equal(frame, whole[number])


def test_frames_cut_off_by_an_edit_list_have_no_number(tmp_path: Path) -> None:
    """The first 5 frames lie before the time at which the edit list begins."""
    path = write(tmp_path / "v.mp4", EVEN)
    data = bytearray(path.read_bytes())
    at = data.index(b"elst")
    before = int.from_bytes(data[at + 16 : at + 20], "big")  # where in the media the first shown frame lies
    unit = int.from_bytes(data[data.index(b"mdhd") + 16 : data.index(b"mdhd") + 20], "big")
    data[at + 16 : at + 20] = (before + 5 * unit // 24).to_bytes(4, "big")
    path.write_bytes(data)
    whole = list(videos.all_frames(path))
    assert len(whole) == COUNT - 5
    for number in (0, 1, 20, COUNT - 6):
        found = videos.read_frames(path, [number])[0]
        np.testing.assert_array_equal(found, whole[number])
        assert abs(int(found[30, 40, 0]) - 5 * (number + 5)) <= 4


@pytest.mark.parametrize(("degrees", "orientation"), [(0, 1), (90, 8), (180, 3), (-90, 6)])
def test_frames_are_turned_as_the_display_matrix_says(tmp_path: Path, degrees: int, orientation: int) -> None:
    flat = videos.read_frames(write(tmp_path / "flat.mp4", EVEN), [10])[0]
    found = videos.read_frames(write(tmp_path / "v.mp4", EVEN, rotation=degrees), [10])[0]
    np.testing.assert_array_equal(found, turned(flat, orientation))


def test_mirrored_and_slanted_frames(tmp_path: Path) -> None:
    flat = videos.read_frames(write(tmp_path / "flat.mp4", EVEN), [10])[0]
    one = 1 << 16
    for matrix, orientation in (((-one, 0, 0, 0, one, 0, 0, 0, 1 << 30), 2), ((0, one, 0, one, 0, 0, 0, 0, 1 << 30), 5)):
        found = videos.read_frames(_with_matrix(tmp_path, matrix), [10])[0]
        np.testing.assert_array_equal(found, turned(flat, orientation))
    with pytest.raises(Unreadable, match="multiple of 90"):
        videos.read_frames(_with_matrix(tmp_path, (46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30)), [10])


def _with_matrix(folder: Path, matrix: tuple[int, ...]) -> Path:
    path = write(folder / f"m{abs(hash(matrix))}.mp4", EVEN)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version and flags, times, track, duration, layer, volume
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(data)
    return path


def test_a_file_that_changes_is_looked_at_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", EVEN)
    videos.read_frames(path, [30])
    write(path, EVEN[:20])
    with pytest.raises(Unreadable, match="which shows 20"):
        videos.read_frames(path, [30])


def damaged(path: Path, **_: Any) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def test_damaged_and_missing_videos(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", EVEN)
    damaged(path)
    with pytest.raises(Unreadable, match="damaged"):
        videos.read_frames(path, [3])
    with pytest.raises(Unreadable, match="missing"):
        videos.read_frames(tmp_path / "none.mp4", [3])
    with pytest.raises(Unreadable, match="too large"):
        videos.read_frames(write(path, EVEN), [3], limit=100)
