from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from core.contracts import BadSample, UserError
from core.pixels import videos
from plugins.datasets import _rle, _video
from plugins.datasets.sav import Sav

EMPTY = {"size": [48, 64], "counts": [48 * 64]}


def write_video(path: Path, count: int, times: Sequence[int] | None = None) -> None:
    """Grey of frame n is 2n; B-frames and distant key frames, so that inexact seeking shows."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"g": "40", "bf": "2", "crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 2 * number, np.uint8), format="rgb24")
            frame.pts = number if times is None else times[number]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def rle(columns: int) -> dict[str, Any]:
    return {"size": [48, 64], "counts": [0, columns * 48, (64 - columns) * 48]}


def write(root: Path, masklet: list[list[Any]], count: int, kind: str = "manual", **more: Any) -> Path:
    root.mkdir(exist_ok=True, parents=True)
    content = {"video_id": "v", "video_frame_count": float(count), "masklet": masklet, **more}
    (root / f"v_{kind}.json").write_text(json.dumps(content))
    if not (root / "v.mp4").exists():
        write_video(root / "v.mp4", count)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """100 frames, 25 annotated; object 0 always there, object 1 on frames 10..12, object 2 never."""
    return write(tmp_path / "sav_000", [[rle(1 + k), rle(3) if 10 <= k < 13 else EMPTY, None] for k in range(25)], 100)


def painted_number(image: np.ndarray) -> int:
    """The number painted as ten blocks of 16 pixels, 20 apart, lowest bit left."""
    return sum(1 << bit for bit in range(10) if image[10:22, 20 * bit + 10 : 20 * bit + 22].mean() > 127)


@pytest.mark.parametrize(("distance", "pairs"), [(1, 3), (6, 2), (30, 2)])
def test_frames_and_masks_of_the_sample_are_of_the_same_time(samples: Path, distance: int, pairs: int) -> None:
    dataset = Sav(root=samples / "sav", distance=distance, pairs=pairs)
    masklet = json.loads((samples / "sav" / "sav_000001_manual.json").read_text())["masklet"]
    assert len(dataset) >= 4
    for index in range(len(dataset)):
        region = dataset[index]
        _, thing, k = region.id.split("/")
        assert region.image2 is not None
        assert region.mask2 is not None
        assert (painted_number(region.image), painted_number(region.image2)) == (4 * int(k), 4 * (int(k) + distance))
        np.testing.assert_array_equal(region.mask, _rle.decode(masklet[int(k)][int(thing)], "x"))
        np.testing.assert_array_equal(region.mask2, _rle.decode(masklet[int(k) + distance][int(thing)], "x"))


def test_every_frame_of_the_sample_by_number(samples: Path) -> None:
    for wanted in ([0], [1, 2, 3], [47, 48, 49], [200, 397], [481, 482]):
        found = _video.frames(samples / "sav" / "sav_000001.mp4", wanted, "x")
        assert [painted_number(image) for image in found] == wanted


def test_auto_masks_of_the_sample(samples: Path) -> None:
    both = Sav(root=samples / "sav", annotations="both")
    assert {both[i].id.split("/")[0] for i in range(0, len(both), 4)} == {"sav_000001_auto", "sav_000001_manual"}


def test_only_frames_that_show_the_object_at_both_times(root: Path) -> None:
    dataset = Sav(root=root.parent, distance=2, pairs=100)
    places = [dataset[i].id.split("/") for i in range(len(dataset))]
    assert [int(k) for *_, thing, k in places if thing == "0"] == list(range(23))
    assert [int(k) for *_, thing, k in places if thing == "1"] == [10]
    assert not [thing for *_, thing, _ in places if thing == "2"]
    region = next(dataset[i] for i in range(len(dataset)) if dataset[i].id == "sav_000/v_manual/0/20")
    assert region.image2 is not None
    assert region.mask.sum() == 21 * 48
    assert abs(int(region.image.mean()) - 160) <= 3
    assert abs(int(region.image2.mean()) - 176) <= 3


def test_distance_zero_gives_one_view(root: Path) -> None:
    region = Sav(root=root, distance=0)[0]
    assert region.image2 is None
    with pytest.raises(UserError, match="two frames 25 apart"):
        Sav(root=root, distance=25)
    with pytest.raises(ValueError, match="distance"):
        Sav(root=root, distance=-1)


def test_uneven_times_are_counted_in_order(tmp_path: Path) -> None:
    times = [number + (number > 10) for number in range(60)]  # one time is left out
    write_video(tmp_path / "v.mp4", 60, times)
    found = _video.frames(tmp_path / "v.mp4", [8, 40], "x")
    assert abs(int(found[0].mean()) - 16) <= 3
    assert abs(int(found[1].mean()) - 80) <= 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"video_frame_count": 50.0}, "masks and video differ in length"),
        ({"video_frame_count": None}, "damaged annotation"),
        ({"masklet": 3}, "damaged annotation"),
        ({"fps": "x"}, "damaged annotation"),
        ({"fps": []}, "damaged annotation"),
        ({"fps": 0}, "damaged annotation"),
        ({"masklet": [[{"size": [48, 64], "counts": "!!"}] for _ in range(25)]}, "damaged mask"),
        ({"masklet": [[{"size": [4, 4], "counts": [0, 16]}] for _ in range(25)]}, "mask and picture differ in size"),
    ],
)
def test_damaged_annotations_are_bad_samples(root: Path, change: dict[str, Any], reason: str) -> None:
    file = root / "v_manual.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(BadSample) as fault:
        Sav(root=root)[0]
    assert fault.value.reason == reason


def test_videos_missing_cut_or_too_short(root: Path) -> None:
    dataset, video = Sav(root=root, distance=20), root / "v.mp4"
    data = video.read_bytes()
    for kept in (b"", b"no video", data[: len(data) // 3]):
        video.write_bytes(kept)
        with pytest.raises(BadSample, match="damaged video"):
            dataset[0]
    video.unlink()
    with pytest.raises(BadSample, match="missing video"):
        dataset[0]
    write_video(video, 60)
    with pytest.raises(BadSample, match="missing frame"):
        dataset[0]


def test_a_video_whose_frames_claim_too_much(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Sav(root=root, distance=0)
    monkeypatch.setattr(_video, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(BadSample, match="picture too large"):
        dataset[0]
    videos._times.cache_clear()
    monkeypatch.setattr(_video, "MAX_PIXELS", _Unlike(0))  # the head passes, the decoder holds to the limit
    with pytest.raises(BadSample, match="damaged video"):
        dataset[0]


class _Unlike(int):
    """A limit that is larger than the size in the file's head, and yet 0 for the decoder."""

    def __lt__(self, other: int) -> bool:
        return False

    def __str__(self) -> str:
        return "1000"


@pytest.mark.parametrize("rate", [12, 12.0, [12, 12]])
def test_a_given_rate_of_annotation(tmp_path: Path, rate: Any) -> None:
    root = write(tmp_path, [[rle(2)] for _ in range(math.ceil(100 / 2))], 100, fps=rate)
    region = Sav(root=root, distance=1, pairs=100)[30]
    k = int(region.id.rpartition("/")[2])
    assert abs(int(region.image.mean()) - 4 * k) <= 3
