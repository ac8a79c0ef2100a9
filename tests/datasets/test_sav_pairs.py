from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from core.contracts import BadSample, UserError
from plugins.datasets.sav_pairs import SavPairs

RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 256, (2, 12, 10, 3)).astype(np.uint8)  # RGB
MASK = np.zeros((12, 10), bool)
MASK[2:6, 3:7] = True


def write(folder: Path, number: int = 0, **changes: object) -> SavPairs:
    """One pair as the real exports have it (BGR float32, masks 0 and 255), with some arrays replaced or left out."""
    arrays: dict[str, object] = {"frame1": FRAMES[0][..., ::-1].astype(np.float32), "frame2": FRAMES[1][..., ::-1].astype(np.float32)}
    arrays |= {"mask1": MASK.astype(np.float32) * 255, "mask2": MASK[::-1].astype(np.float32) * 255}
    arrays = {name: value for name, value in (arrays | changes).items() if value is not None}
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / f"masklet_data_{number:05d}.npz", **arrays)
    return SavPairs(root=folder)


def test_bgr_is_turned_into_rgb(tmp_path: Path) -> None:
    region = write(tmp_path)[0]
    np.testing.assert_array_equal(region.image, FRAMES[0])
    np.testing.assert_array_equal(region.image2, FRAMES[1])
    np.testing.assert_array_equal(region.mask, MASK)
    np.testing.assert_array_equal(region.mask2, MASK[::-1])
    as_stored = SavPairs(root=tmp_path, channel_order="rgb")[0]
    np.testing.assert_array_equal(as_stored.image, FRAMES[0][..., ::-1])


@pytest.mark.parametrize("change", ["uint8", "channels first", "unit floats", "mask 0/1", "mask bool", "mask axis"])
def test_other_containers_give_the_same_region(tmp_path: Path, change: str) -> None:
    bgr = FRAMES[0][..., ::-1]
    changes = {
        "uint8": {"frame1": bgr},
        "channels first": {"frame1": bgr.transpose(2, 0, 1).astype(np.float32)},
        "unit floats": {"frame1": bgr.astype(np.float32) / 255},
        "mask 0/1": {"mask1": MASK.astype(np.uint8)},
        "mask bool": {"mask1": MASK},
        "mask axis": {"mask1": MASK[None].astype(np.float32)},
    }[change]
    region = write(tmp_path, **changes)[0]
    np.testing.assert_array_equal(region.image, FRAMES[0])
    np.testing.assert_array_equal(region.mask, MASK)


def test_a_copied_second_frame_is_no_second_view(tmp_path: Path) -> None:
    region = write(tmp_path, frame2=FRAMES[0][..., ::-1].astype(np.float32))[0]
    assert region.image2 is None
    assert region.mask2 is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mask1": np.zeros((12, 10), np.float32)}, "empty mask"),
        ({"mask2": np.zeros((12, 10), np.float32)}, "empty mask"),
        ({"mask2": None}, "damaged npz"),
        ({"frame1": np.zeros((12, 10), np.float32)}, "damaged npz"),
        ({"frame1": np.full((12, 10, 3), np.nan, np.float32)}, "damaged npz"),
        ({"mask1": np.ones((10, 12), np.float32)}, "damaged npz"),
        ({"mask1": np.array(["x"])}, "damaged npz"),
        ({"frame1": np.array([{"an": "object"}], dtype=object)}, "damaged npz"),
    ],
)
def test_unusable_pairs(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    with pytest.raises(BadSample) as fault:
        write(tmp_path, **changes)[0]
    assert fault.value.reason == reason
    assert fault.value.sample == "masklet_data_00000.npz"


@pytest.mark.parametrize("keep", [0, 10, 200, 0.5, 0.9])
def test_a_truncated_file(tmp_path: Path, keep: float) -> None:
    dataset = write(tmp_path)
    path = tmp_path / "masklet_data_00000.npz"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    with pytest.raises(BadSample, match="damaged npz"):
        dataset[0]


def test_a_damaged_byte_inside(tmp_path: Path) -> None:
    dataset = write(tmp_path)
    path = tmp_path / "masklet_data_00000.npz"
    data = bytearray(path.read_bytes())
    data[300] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(BadSample, match="damaged npz"):
        dataset[0]


def test_a_header_that_claims_a_terabyte_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (500_000, 500_000, 3)})
    with zipfile.ZipFile(tmp_path / "masklet_data_00000.npz", "w") as archive:
        archive.writestr("frame1.npy", header.getvalue() + b"\0" * 64)
    with pytest.raises(BadSample, match="claims"):
        SavPairs(root=tmp_path)[0]


def test_a_file_that_vanished(tmp_path: Path) -> None:
    dataset = write(tmp_path)
    (tmp_path / "masklet_data_00000.npz").unlink()
    with pytest.raises(BadSample, match="missing npz"):
        dataset[0]


def test_order_and_ids_are_relative_paths(tmp_path: Path) -> None:
    for folder in ("b", "a"):
        for number in (1, 0):
            write(tmp_path / folder, number)
    dataset = SavPairs(root=tmp_path)
    assert [dataset[i].id for i in range(4)] == [f"{folder}/masklet_data_0000{number}.npz" for folder in "ab" for number in (0, 1)]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no masklet_data"):
        SavPairs(root=tmp_path)
    with pytest.raises(UserError, match="no folder"):
        SavPairs(root=tmp_path / "absent")
    write(tmp_path)
    with pytest.raises(ValueError, match="channel_order"):
        SavPairs(root=tmp_path, channel_order="gbr")  # type: ignore[arg-type]
