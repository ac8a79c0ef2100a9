"""What the sources make of unusual pictures, masks, folders and layouts; how each file is read has its tests in ``tests/pixels``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.contracts import BadSample, UserError
from plugins.datasets.coco_regions import CocoRegions
from plugins.datasets.folder_regions import FolderRegions
from plugins.datasets.openimages import OpenImages
from plugins.datasets.sa1b import Sa1b
from plugins.datasets.sav import Sav
from plugins.datasets.sav_pairs import SavPairs

H, W = 20, 32


def scene() -> np.ndarray:
    """[H, W, 3] with a red box at rows 4 to 12, columns 2 to 12."""
    array = np.full((H, W, 3), 60, np.uint8)
    array[4:12, 2:12] = (230, 20, 20)
    return array


def box() -> np.ndarray:
    mask = np.zeros((H, W), np.uint8)
    mask[4:12, 2:12] = 1
    return mask


def turned_picture(path: Path, orientation: int) -> None:
    """The scene, stored so that its EXIF orientation shows it upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]
    Image.fromarray(scene()).transpose(back).save(path, quality=98, subsampling=0, exif=exif)


def fits(image: np.ndarray, mask: np.ndarray) -> float:
    red = (image[..., 0].astype(int) - image[..., 1] > 80) & (image[..., 0] > 120)
    return float((red & mask).sum() / (red | mask).sum())


def lines(folder: Path, *rows: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "regions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("stored", [False, True])
def test_masks_of_turned_pictures(tmp_path: Path, orientation: int, stored: bool) -> None:
    """Drawn on what is shown, or on the pixels as stored: with the option both fit, as folder and as COCO file."""
    turned_picture(tmp_path / "a.jpg", orientation)
    mask = box()
    if stored:
        mask = mask[::-1, ::-1] if orientation == 3 else np.rot90(mask)
    Image.fromarray(np.ascontiguousarray(mask)).save(tmp_path / "m.png")
    how: Any = {"orientation": "stored" if stored else "shown"}
    region = FolderRegions(root=lines(tmp_path, {"image": "a.jpg", "mask": "m.png"}), **how)[0]
    assert fits(region.image, region.mask) == 1
    rows, columns = np.nonzero(mask)
    x, y, right, low = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    polygon = [[float(v) for v in (x, y, right, y, right, low, x, low)]]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": mask.shape[0], "width": mask.shape[1]}],
        "annotations": [{"id": 1, "image_id": 1, "segmentation": polygon, "area": 80, "iscrowd": 0}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    region = CocoRegions(annotations=tmp_path / "a.json", images=tmp_path, **how)[0]
    assert fits(region.image, region.mask) == 1


def test_a_mask_that_fits_only_the_stored_pixels_is_told(tmp_path: Path) -> None:
    turned_picture(tmp_path / "a.jpg", 6)
    Image.fromarray(np.ascontiguousarray(np.rot90(box()))).save(tmp_path / "m.png")
    dataset = FolderRegions(root=lines(tmp_path, {"image": "a.jpg", "mask": "m.png"}))
    with pytest.warns(UserWarning, match="set orientation: stored"):
        region = dataset[0]
    assert fits(region.image, region.mask) == 1
    assert any("set orientation: stored" in note for note in dataset.usage()[0].notes)


def test_several_objects_in_a_mask_are_a_region_each(tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png")
    two = np.zeros((H, W), np.uint8)
    two[1:6, 1:9], two[8:18, 20:30], two[6, 1:9] = 1, 2, 255
    voc = Image.fromarray(two).convert("P")
    voc.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, *[7] * (252 * 3), 224, 224, 192])
    voc.save(tmp_path / "two.png")
    Image.fromarray(box()).save(tmp_path / "one.png")
    plain, one = {"image": "a.png", "mask": "two.png", "id": "x"}, {"image": "a.png", "mask": "one.png", "id": "y", "caption": "a box"}
    dataset = FolderRegions(root=lines(tmp_path, plain, one))
    assert [(dataset[i].id, int(dataset[i].mask.sum())) for i in range(len(dataset))] == [("x#1", 40), ("x#2", 100), ("y", 80)]
    assert "3 regions" in dataset.usage()[0].notes[0]
    named = FolderRegions(root=lines(tmp_path, plain | {"label": 2, "caption": "the lower one"}, one, plain | {"label": 9}))
    assert [(named[i].caption, int(named[i].mask.sum())) for i in range(2)] == [("the lower one", 100), ("a box", 80)]
    with pytest.raises(BadSample, match="no pixel of the label 9"):
        named[2]
    captioned = lines(tmp_path, plain | {"caption": "which of them?"}, plain | {"label": "red"})
    for index, said in ((0, "name one with label"), (1, "label is a number")):
        with pytest.raises(BadSample, match=said):
            FolderRegions(root=captioned)[index]
    assert int(FolderRegions(root=captioned, masks="binary")[0].mask.sum()) == 148
    assert len(FolderRegions(root=captioned, masks="index")) == 3
    with pytest.raises(ValueError, match="masks must be"):
        FolderRegions(root=captioned, masks="both")  # type: ignore[arg-type]


def test_a_large_picture_is_an_option(tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png")
    Image.fromarray(box()).save(tmp_path / "m.png")
    root = lines(tmp_path, {"image": "a.png", "mask": "m.png"})
    with pytest.raises(BadSample, match="raise max_pixels") as fault:
        FolderRegions(root=root, max_pixels=H * W - 1)[0]
    assert fault.value.reason == "mask too large"
    assert FolderRegions(root=root, max_pixels=H * W)[0].mask.any()
    runs = {"size": [H, W], "counts": [2 * H, H * W - 2 * H]}
    sa1b(tmp_path / "sa", 1, runs)
    with pytest.raises(BadSample, match="mask too large"):
        Sa1b(root=tmp_path / "sa", max_pixels=H * W - 1)[0]
    assert Sa1b(root=tmp_path / "sa", max_pixels=H * W)[0].mask.any()


def sa1b(folder: Path, number: int, runs: Any = None, suffix: str = ".jpg", **annotation: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    runs = runs or {"size": [H, W], "counts": [2 * H, 80, H * W - 2 * H - 80]}
    Image.fromarray(scene()).save(folder / f"sa_{number}{suffix}")
    content = {"image": {"file_name": f"sa_{number}{suffix}"}, "annotations": [{"id": number, "segmentation": runs} | annotation]}
    (folder / f"sa_{number}.json").write_text(json.dumps(content))


def test_sa1b_in_other_habits(tmp_path: Path) -> None:
    for number, suffix in enumerate((".JPG", ".jpeg", ".png", ".webp"), start=1):
        sa1b(tmp_path / "a", number, suffix=suffix)
    assert len([Sa1b(root=tmp_path / "a")[i] for i in range(4)]) == 4
    sa1b(tmp_path / "b", 1, area=3)  # smaller than it says: damaged, and not left out silently
    sa1b(tmp_path / "b", 2, area=80)
    used = Sa1b(root=tmp_path / "b", min_area=10)
    assert [str(usage) for usage in used.usage()] == ["1 of 2 annotations used; left out: 1 x smaller than min_area"]
    (tmp_path / "c").mkdir()  # as SAM's own generator writes them: a list, named as the picture is
    Image.fromarray(scene()).save(tmp_path / "c/dog.png")
    (tmp_path / "c/dog.json").write_text(json.dumps([{"segmentation": {"size": [H, W], "counts": [2 * H, 80, H * W - 2 * H - 80]}}]))
    assert Sa1b(root=tmp_path / "c")[0].id == "dog/#0"


def test_linked_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    sa1b(tmp_path / "disk" / "sa_000001", 1)
    root = tmp_path / "root"
    sa1b(root / "sa_000000", 0)
    (root / "sa_000001").symlink_to(tmp_path / "disk" / "sa_000001")
    (root / "sa_000000" / "up").symlink_to(root)
    (root / "again").symlink_to(root / "sa_000000")
    dataset = Sa1b(root=root)
    assert [dataset[i].id for i in range(len(dataset))] == ["sa_000000/sa_0/0", "sa_000001/sa_1/1"]
    sa1b(tmp_path / "disk" / "sa_000001", 2)
    assert len(Sa1b(root=root)) == 3
    frames = np.random.default_rng(0).integers(0, 255, (H, W, 3)).astype(np.float32)
    (tmp_path / "pairs").mkdir()
    np.savez(tmp_path / "pairs/masklet_data_1.npz", frame1=frames, mask1=255 * box(), frame2=frames + 1, mask2=255 * box())
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/part").symlink_to(tmp_path / "pairs")
    assert len(SavPairs(root=tmp_path / "linked")) == 1
    (root / "gone").symlink_to(tmp_path / "unmounted")
    with pytest.raises(UserError, match=r"links to .*unmounted, which is not there"):
        Sa1b(root=root)


@pytest.mark.parametrize("masks", ["train-masks-0", "masks/train-masks-0", "masks/train", "masks/train/0", "masks/train/train-masks-0"])
@pytest.mark.parametrize("images", ["train_0", "train", "images/train"])
def test_open_images_as_its_archives_unpack(tmp_path: Path, masks: str, images: str) -> None:
    for folder in (masks, images):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene()).save(tmp_path / images / "00aa.jpg")
    Image.fromarray(255 * box()).resize((2 * W, 2 * H), Image.Resampling.NEAREST).convert("1").save(tmp_path / masks / "00aa_m0_1.png")
    (tmp_path / "train-annotations-object-segmentation.csv").write_text("MaskPath,ImageID,LabelName\n00aa_m0_1.png,00aa,/m/0\n")
    region = OpenImages(root=tmp_path)[0]
    assert fits(region.image, region.mask) > 0.9


def test_open_images_takes_pixels_as_stored_unless_it_is_told(tmp_path: Path) -> None:
    for folder in ("images/train", "masks/train"):
        (tmp_path / folder).mkdir(parents=True)
    turned_picture(tmp_path / "images/train/00aa.jpg", 3)
    Image.fromarray(box()).save(tmp_path / "masks/train/00aa_m0_1.png")
    (tmp_path / "train-annotations-object-segmentation.csv").write_text("MaskPath,ImageID,LabelName\n00aa_m0_1.png,00aa,/m/0\n")
    assert fits((shown := OpenImages(root=tmp_path, orientation="shown")[0]).image, shown.mask) == 1
    stored = OpenImages(root=tmp_path)
    with pytest.warns(UserWarning, match="taken as stored"):
        np.testing.assert_array_equal(stored[0].image[8:16, 20:30, 0] > 150, True)


@pytest.fixture
def val(tmp_path: Path) -> Path:
    """SA-V's val layout: 13 frames, object 0 on annotated frames 0, 4, 8, 12, object 1 on 4 and 8 with an empty mask in 0."""
    root = tmp_path / "sav_val"
    (root / "JPEGImages_24fps/v1").mkdir(parents=True)
    for frame in range(13):
        Image.fromarray(scene() + np.uint8(frame)).save(root / f"JPEGImages_24fps/v1/{frame:05d}.jpg")
    for thing, frames in (("000", (0, 4, 8, 12)), ("001", (4, 8))):
        (root / "Annotations_6fps/v1" / thing).mkdir(parents=True)
        for frame in frames:
            Image.fromarray(box()).save(root / f"Annotations_6fps/v1/{thing}/{frame:05d}.png")
    Image.fromarray(0 * box()).save(root / "Annotations_6fps/v1/001/00000.png")
    return root


def test_sav_val_and_test(val: Path) -> None:
    dataset = Sav(root=val, distance=1, pairs=9)
    assert [dataset[i].id for i in range(len(dataset))] == ["v1/000/0", "v1/000/1", "v1/000/2", "v1/001/1"]
    region = dataset[1]
    assert region.image2 is not None
    assert abs(int(region.image[18, 30, 0]) - 64) <= 3
    assert abs(int(region.image2[18, 30, 0]) - 68) <= 3
    assert len(Sav(root=val.parent, distance=1)) == 2  # found one folder down
    far = Sav(root=val, distance=3)
    assert "left out: 1 x no object on two frames so far apart" in str(far.usage()[0])
    shutil.copytree(val, val.with_name("sav_test"))
    for root, how, said in (
        (val.parent, {}, "holds sav_test and sav_val; set root to one of them"),
        (val, {"annotations": "auto"}, "manual annotations only"),
        (val, {"distance": 9}, "set a smaller distance"),
    ):
        with pytest.raises(UserError, match=said):
            Sav(root=root, **how)  # type: ignore[arg-type]
    (val / "JPEGImages_24fps/v1/00004.jpg").unlink()
    with pytest.raises(BadSample, match="missing picture"):
        dataset[1]
