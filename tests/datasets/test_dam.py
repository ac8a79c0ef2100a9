from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.contracts import BadSample, UserError
from plugins.datasets import dam


def rle(width: int, height: int, on: int) -> dict[str, Any]:
    """Uncompressed: the first ``on`` columns are the object."""
    return {"size": [height, width], "counts": [0, on * height, (width - on) * height]}


def write(root: Path, split: str, annotations: Any, pictures: dict[str, int], size: tuple[int, int] = (8, 6)) -> None:
    """A split with one tar; ``pictures`` maps member names to grey values."""
    (root / split / "images").mkdir(parents=True)
    (root / split / "annotations.json").write_text(json.dumps(annotations))
    with tarfile.open(root / split / "images" / "00000000.tar", "w") as tar:
        for name, grey in pictures.items():
            buffer = io.BytesIO()
            Image.new("RGB", size, (grey, grey, grey)).save(buffer, "JPEG")
            _add(tar, name, buffer.getvalue())
        _add(tar, "evil.pickle", b"cos\nsystem\n(S'touch attacked'\ntR.")


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def region(**changes: Any) -> dict[str, Any]:
    return {"image": "train2017/000000000139.jpg", "tar_file": "00000000.tar", "caption": "a thing", "mask_rle": rle(8, 6, 3)} | changes


@pytest.mark.parametrize("member", ["139.jpg", "000000000139.jpg", "train2017/000000000139.jpg", "./139.jpg"])
@pytest.mark.parametrize("image", ["000000000139.jpg", "train2017/139.jpg", None])
def test_padded_and_unpadded_names(tmp_path: Path, member: str, image: str | None) -> None:
    if member.startswith("train2017") and image != "train2017/000000000139.jpg":
        image = "train2017/000000000139.jpg"
    write(tmp_path, "LVIS", {"139": [region(image=image)]}, {member: 100})
    found = dam.lvis(root=tmp_path)[0]
    assert found.image.shape == (6, 8, 3)
    assert found.mask.sum() == 18
    assert found.id == "lvis/139/0"


def test_frames_are_ordered_by_number_and_paired_with_their_masks(tmp_path: Path) -> None:
    names = [f"v_0.{frame}.jpg" for frame in range(12)]
    masks = [rle(8, 6, 5 if frame == 10 else 2) for frame in range(12)]
    for order in (names, sorted(names)):
        clip = region(image=order, mask_rle=masks, video_id="v", ann_id=0)
        shutil.rmtree(tmp_path / "SAV", ignore_errors=True)
        write(tmp_path, "SAV", {"v_0": clip}, {name: 20 * frame for frame, name in enumerate(names)})
        found = dam.sav(root=tmp_path)[0]
        assert abs(int(found.image.mean()) - 200) < 3
        assert found.mask.sum() == 30
        assert found.image2 is None


@pytest.mark.parametrize("changes", [{"image": None}, {"image": "v_0"}, {"image": ["v_0.0.jpg", "v_0.1.jpg"]}])
def test_the_frames_of_a_clip_are_found_by_key_or_by_list(tmp_path: Path, changes: dict[str, Any]) -> None:
    clip = region(mask_rle=[rle(8, 6, 1), rle(8, 6, 4)], video_id="v", ann_id=0, **changes)
    write(tmp_path, "SAV", {"other key": [clip]}, {"v_0.0.jpg": 0, "v_0.1.jpg": 120, "v_01.0.jpg": 250})
    assert abs(int(dam.sav(root=tmp_path)[0].image.mean()) - 120) < 3


def test_frame_numbers_that_do_not_count_from_zero(tmp_path: Path) -> None:
    clip = region(image=None, mask_rle=[rle(8, 6, 1), rle(8, 6, 4), rle(8, 6, 2)], tar_file="SAV/images/00000000.tar")
    write(tmp_path, "SAV", {"v_0": clip}, {"v_0.8.jpg": 50, "v_0.12.jpg": 120, "v_0.104.jpg": 200})
    assert abs(int(dam.sav(root=tmp_path)[0].image.mean()) - 120) < 3


def test_one_mask_that_is_no_list_belongs_to_the_first_frame(tmp_path: Path) -> None:
    write(tmp_path, "SAV", {"v_0": region(image=None)}, {"v_0.0.jpg": 50, "v_0.1.jpg": 120})
    assert abs(int(dam.sav(root=tmp_path)[0].image.mean()) - 50) < 3


def test_a_missing_frame(tmp_path: Path) -> None:
    clip = region(image=None, mask_rle=[rle(8, 6, 1), rle(8, 6, 4), rle(8, 6, 2)])
    write(tmp_path, "SAV", {"v_0": clip}, {"v_0.0.jpg": 50, "v_0.2.jpg": 120})
    with pytest.raises(BadSample, match="missing member"):
        dam.sav(root=tmp_path)[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"caption": "   "}, "blank caption"),
        ({"caption": None}, "blank caption"),
        ({"caption": "<image> "}, "blank caption"),
        ({"mask_rle": rle(8, 6, 0)}, "empty mask"),
        ({"mask_rle": []}, "empty mask"),
        ({"mask_rle": None}, "damaged mask"),
        ({"mask_rle": rle(9, 6, 3)}, "mask and picture differ in size"),
        ({"mask_rle": {"size": [10**6, 10**6], "counts": "P]<"}}, "mask too large"),
        ({"image": "train2017/5.jpg"}, "missing member"),
        ({"tar_file": "00000007.tar"}, "missing tar"),
        ({"tar_file": "../../outside.tar"}, "missing tar"),
        ({"tar_file": "\0"}, "damaged tar"),
        ({"tar_file": "\ud800"}, "damaged tar"),
        ({"image": "evil.pickle"}, "damaged picture"),
    ],
)
def test_unusable_regions(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    write(tmp_path, "PACO", {"7": [region(**changes)]}, {"139.jpg": 100})
    shutil.copy(tmp_path / "PACO/images/00000000.tar", tmp_path / "outside.tar")
    with pytest.raises(BadSample) as fault:
        dam.paco(root=tmp_path)[0]
    assert fault.value.reason == reason
    assert fault.value.sample == "paco/7/0"


@pytest.mark.parametrize("broken", [3, None, "text", {"caption": "no mask"}])
def test_a_region_that_is_none(tmp_path: Path, broken: Any) -> None:
    write(tmp_path, "PACO", {"7": [broken]}, {})
    with pytest.raises(BadSample, match="damaged annotation"):
        dam.paco(root=tmp_path)[0]


def test_tags_of_chat_templates_are_taken_out(tmp_path: Path) -> None:
    write(tmp_path, "PACO", {"139": [region(caption="<image>\nA <video> café")]}, {"139.jpg": 100})
    assert dam.paco(root=tmp_path)[0].caption == "A café"


def test_without_a_tar_file_all_tars_are_looked_into(tmp_path: Path) -> None:
    write(tmp_path, "Mapillary", {"x.y": region(image="x.y.jpg", tar_file=None)}, {"x.y.jpg": 100})
    (tmp_path / "Mapillary/images/00000000.tar").rename(tmp_path / "Mapillary/images/00000001.tar")
    write(tmp_path / "more", "Mapillary", {}, {"z.jpg": 3})
    shutil.copy(tmp_path / "more/Mapillary/images/00000000.tar", tmp_path / "Mapillary/images/00000000.tar")
    assert dam.mapillary(root=tmp_path)[0].image.mean() == pytest.approx(100, abs=2)


def test_a_doubled_root_folder(world: Path, tmp_path: Path) -> None:
    doubled = tmp_path / "describe-anything-dataset" / "describe-anything-dataset"
    shutil.copytree(world / "dam" / "PACO", doubled / "PACO")
    shutil.copytree(world / "dam" / "SAV", tmp_path / "dam" / "dam" / "SAV")
    assert len(dam.paco(root=doubled.parent)) == len(dam.paco(root=doubled))
    assert len(dam.sav(root=tmp_path / "dam")) > 0


def test_splits_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        dam.openimages(root=tmp_path / "absent")
    with pytest.raises(UserError, match=r"COCOStuff/annotations\.json is missing"):
        dam.cocostuff(root=tmp_path)
    write(tmp_path, "COCOStuff", {"1": [], "2": []}, {})
    with pytest.raises(UserError, match="no region"):
        dam.cocostuff(root=tmp_path)
    for content in ("{", "[1]", "[" * 100_000):
        (tmp_path / "COCOStuff" / "annotations.json").write_text(content)
        with pytest.raises(UserError, match=r"annotations\.json"):
            dam.cocostuff(root=tmp_path)


def test_regions_grouped_by_picture(tmp_path: Path) -> None:
    write(tmp_path, "PACO", {"1": [region(), region()], "2": [], "3": [region()]}, {"139.jpg": 100})
    assert dam.paco(root=tmp_path).images() == [[0, 1], [2]]
    np.testing.assert_array_equal(dam.paco(root=tmp_path)[0].mask, dam.paco(root=tmp_path)[2].mask)
