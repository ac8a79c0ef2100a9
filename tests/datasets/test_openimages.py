from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.contracts import BadSample, UserError
from plugins.datasets.openimages import OpenImages

CSV = "train-annotations-object-segmentation.csv"


@pytest.fixture
def root(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world / "openimages", tmp_path / "openimages"))


def first_row(root: Path) -> list[str]:
    return (root / CSV).read_text().splitlines()[1].split(",")


def test_the_mask_takes_the_picture_s_exact_size(root: Path) -> None:
    mask, picture, *_ = first_row(root)
    Image.new("RGB", (1024, 683)).save(root / "images/train" / f"{picture}.jpg")
    drawn = np.zeros((1066, 1600), bool)  # 1600 / 1024 and 1066 / 683 differ by a pixel
    drawn[:, 800:] = True
    Image.fromarray(drawn).save(root / "masks/train" / mask)
    region = OpenImages(root=root)[0]
    assert region.mask.shape == region.image.shape[:2] == (683, 1024)
    assert region.mask[:, 512:].all()
    assert not region.mask[:, :512].any()


def test_masks_in_sixteen_folders(root: Path) -> None:
    flat = OpenImages(root=root)
    expected = [flat[i].mask for i in range(len(flat))]
    for path in sorted((root / "masks/train").glob("*.png")):
        (path.parent / path.name[0]).mkdir(exist_ok=True)
        path.rename(path.parent / path.name[0] / path.name)
    for i, mask in enumerate(expected):
        np.testing.assert_array_equal(flat[i].mask, mask)


def test_a_turned_picture_is_refused(root: Path) -> None:
    mask, picture, *_ = first_row(root)
    Image.new("RGB", (60, 90)).save(root / "images/train" / f"{picture}.jpg")
    Image.fromarray(np.ones((120, 180), bool)).save(root / "masks/train" / mask)
    with pytest.raises(BadSample, match="differ in shape"):
        OpenImages(root=root)[0]


def test_ids_that_look_like_numbers_stay_text(root: Path) -> None:
    mask, picture, *rest = first_row(root)
    lines = (root / CSV).read_text().splitlines()
    shutil.move(root / "images/train" / f"{picture}.jpg", root / "images/train" / "00000000001e5123.jpg")
    shutil.move(root / "masks/train" / mask, root / "masks/train" / "00000000001e5123_m0sh0_00000042.png")
    (root / CSV).write_text("\n".join([lines[0], ",".join(["00000000001e5123_m0sh0_00000042.png", "00000000001e5123", *rest])]) + "\n\n")
    dataset = OpenImages(root=root)
    assert len(dataset) == 1
    assert dataset[0].id == "train/00000000001e5123_m0sh0_00000042"


@pytest.mark.parametrize("name", ["class-descriptions-boxable.csv", "oidv7-class-descriptions.csv"])
@pytest.mark.parametrize("header", ["", "LabelName,DisplayName\n", "id,name\n"])
def test_label_files_with_and_without_a_header(root: Path, name: str, header: str) -> None:
    (root / "oidv7-class-descriptions.csv").unlink()
    label = first_row(root)[2]
    (root / name).write_text(f'{header}{label},"Ball, round (Object)"\n/g/11x,Other\n')
    assert OpenImages(root=root, caption="class_name")[0].caption == "Ball, round (Object)"
    assert OpenImages(root=root)[0].caption is None


def test_class_names_that_are_missing(root: Path) -> None:
    (root / "oidv7-class-descriptions.csv").write_text("LabelName,DisplayName\n")
    with pytest.raises(BadSample, match="class without a name"):
        OpenImages(root=root, caption="class_name")[0]
    (root / "oidv7-class-descriptions.csv").unlink()
    with pytest.raises(UserError, match="class_name"):
        OpenImages(root=root, caption="class_name")


def test_files_missing_or_damaged(root: Path) -> None:
    mask, picture, *_ = first_row(root)
    dataset = OpenImages(root=root)
    path = root / "masks/train" / mask
    data = path.read_bytes()
    for kept in (data[:20], data[: len(data) // 2], b""):
        path.write_bytes(kept)
        with pytest.raises(BadSample, match="damaged mask"):
            dataset[0]
    Image.new("1", (150, 150)).save(path)
    with pytest.raises(BadSample, match="empty mask"):
        dataset[0]
    path.unlink()
    with pytest.raises(BadSample, match="missing mask"):
        dataset[0]
    (root / "images/train" / f"{picture}.jpg").unlink()
    with pytest.raises(BadSample, match="missing picture"):
        dataset[0]


def test_grey_and_cmyk_pictures_become_rgb(root: Path) -> None:
    picture = root / "images/train" / f"{first_row(root)[1]}.jpg"
    for mode in ("L", "CMYK"):
        Image.new(mode, (96, 96)).save(picture)
        assert OpenImages(root=root)[0].image.shape == (96, 96, 3)


def test_a_name_that_leads_out_of_the_folder(root: Path) -> None:
    header, line = (root / CSV).read_text().splitlines()[:2]
    _, picture, *rest = line.split(",")
    (root / CSV).write_text("\n".join([header, ",".join(["../../secret.png", picture, *rest])]) + "\nshort,row\n")
    dataset = OpenImages(root=root)
    for index, detail in enumerate(("a name with a path", "no ")):
        with pytest.raises(BadSample, match="damaged row") as fault:
            dataset[index]
        assert detail in fault.value.detail


def test_tables_that_cannot_be_used(root: Path) -> None:
    header = (root / CSV).read_text().splitlines()[0]
    (root / CSV).write_text(header + "\n")
    with pytest.raises(UserError, match="lists no mask"):
        OpenImages(root=root)
    (root / CSV).write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no column MaskPath"):
        OpenImages(root=root)
    with pytest.raises(UserError, match="test-annotations"):
        OpenImages(root=root, split="test")
    with pytest.raises(UserError, match="no folder"):
        OpenImages(root=root / "absent")


def test_a_carriage_return_in_a_line_and_a_class_with_a_blank_name(root: Path) -> None:
    table = root / CSV
    header, line = table.read_bytes().splitlines()[:2]
    label = line.split(b",")[2].decode()
    (root / "oidv7-class-descriptions.csv").write_text(f"{label}, \n")
    table.write_bytes(header + b"\n" + line + b"\n\r" + line + b"\n")
    dataset = OpenImages(root=root, caption="class_name")
    for index, reason in enumerate(("class without a name", "damaged row")):
        with pytest.raises(BadSample, match=reason):
            dataset[index]
    table.write_bytes(b"\r" + header + b"\n")
    with pytest.raises(UserError, match="no column MaskPath"):
        OpenImages(root=root)


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_tables_in_other_encodings_of_unicode(root: Path, codec: str) -> None:
    expected = OpenImages(root=root, caption="class_name")[3]
    for name in (CSV, "oidv7-class-descriptions.csv"):
        (root / name).write_bytes((root / name).read_text(encoding="utf-8").replace("\n", "\r\n").encode(codec))
    found = OpenImages(root=root, caption="class_name")[3]
    assert (found.id, found.caption) == (expected.id, expected.caption)
    np.testing.assert_array_equal(found.mask, expected.mask)


def test_another_encoding_is_named(root: Path) -> None:
    row = (root / CSV).read_bytes().splitlines()[1]
    (root / CSV).write_bytes((root / CSV).read_bytes().splitlines()[0] + b"\n" + row.replace(b"_", b"\xe9", 1) + b"\n")
    with pytest.raises(BadSample, match="UTF-8 has no character e9"):
        OpenImages(root=root)[0]
    (root / "oidv7-class-descriptions.csv").write_bytes("/m/1,Gerät\n".encode("latin1"))
    with pytest.raises(UserError, match=r"Windows-1252.*save it as UTF-8"):
        OpenImages(root=root, caption="class_name")


def test_another_encoding_in_the_first_line_is_named(root: Path) -> None:
    (root / CSV).write_bytes((root / CSV).read_bytes().replace(b"MaskPath", b"M\xe9sk", 1))
    with pytest.raises(UserError, match=r"openimages: .*\.csv: .*UTF-8 has no character e9"):
        OpenImages(root=root)
