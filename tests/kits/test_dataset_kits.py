"""The built-in data sets against their contract kit, each on its part of the small synthetic world."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from core.testing import DatasetKit
from plugins.datasets import dam
from plugins.datasets.augment import Augment
from plugins.datasets.coco_regions import CocoRegions
from plugins.datasets.concat import Concat
from plugins.datasets.filter import Filter
from plugins.datasets.folder_regions import FolderRegions
from plugins.datasets.labelme import Labelme
from plugins.datasets.openimages import OpenImages
from plugins.datasets.refcoco import Refcoco
from plugins.datasets.repeat import Repeat
from plugins.datasets.sa1b import Sa1b
from plugins.datasets.sav import Sav
from plugins.datasets.sav_pairs import SavPairs
from plugins.datasets.shapes import write_world
from plugins.datasets.via import Via


@pytest.fixture(scope="session")
def little_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kits") / "shapes"
    write_world(folder, pictures=10, seed=5, size=64)
    return folder


class WorldKit(DatasetKit):
    """Takes its source from the synthetic world."""

    part = ""

    @pytest.fixture(autouse=True)
    def _world(self, little_world: Path) -> None:
        self.world = little_world

    def write(self, root: Path) -> None:
        shutil.copytree(self.world / self.part, root, dirs_exist_ok=True)


class TestSavPairs(WorldKit):
    part = "sav"

    def make(self, root):
        return SavPairs(root=root)


class TestSa1b(WorldKit):
    part = "sa1b"

    def make(self, root):
        return Sa1b(root=root)


class TestOpenImages(WorldKit):
    part = "openimages"

    def make(self, root):
        return OpenImages(root=root, caption="class_name")


class TestRefcoco(WorldKit):
    part = "ref_seg"

    def make(self, root):
        return Refcoco(root=root)


class DamKit(WorldKit):
    part = "dam"


class TestDamSav(DamKit):
    def make(self, root):
        return dam.sav(root=root)


class TestDamCocostuff(DamKit):
    def make(self, root):
        return dam.cocostuff(root=root)


class TestDamLvis(DamKit):
    def make(self, root):
        return dam.lvis(root=root)


class TestDamMapillary(DamKit):
    def make(self, root):
        return dam.mapillary(root=root)


class TestDamOpenImages(DamKit):
    def make(self, root):
        return dam.openimages(root=root)


class TestDamPaco(DamKit):
    def make(self, root):
        return dam.paco(root=root)


class TestDamSam(WorldKit):
    def write(self, root: Path) -> None:
        """The synthetic world has no SAM split: another one stands in."""
        shutil.copytree(self.world / "dam" / "PACO", root / "SAM")

    def make(self, root):
        return dam.sam(root=root)


def rle(top: int) -> dict[str, Any]:
    """A [16, 16] run-length mask: rows ``top`` to the last of the first four columns."""
    return {"size": [16, 16], "counts": [top, *[16 - top, top] * 3, 16 - top, 12 * 16]}


class TestSav(DatasetKit):
    def write(self, root: Path) -> None:
        masklet = [[rle(1 + frame), rle(8)] for frame in range(7)]
        (root / "v_manual.json").write_text(json.dumps({"video_id": "v", "video_frame_count": 28.0, "masklet": masklet}))
        with av.open(str(root / "v.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=24)
            stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
            for number in range(28):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((16, 16, 3), 8 * number, np.uint8), format="rgb24")))
            container.mux(stream.encode(None))

    def make(self, root):
        return Sav(root=root, distance=2)


def pictures(root: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (16, 16), (90, 120, 30)).save(root / f"{name}.png")


class TestCocoRegions(DatasetKit):
    def write(self, root: Path) -> None:
        pictures(root)
        images = [{"id": i, "file_name": f"{name}.png", "height": 16, "width": 16} for i, name in enumerate("ab")]
        common = {"category_id": 1, "iscrowd": 0, "area": 36.0}
        annotations = [{"id": i, "image_id": i, "segmentation": [[2, 2, 8, 2, 8, 8, 2, 8]], "caption": "a cup", **common} for i in (0, 1)]
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cup"}]}
        (root / "file.json").write_text(json.dumps(content))

    def empty(self, root: Path) -> None:
        (root / "file.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))

    def make(self, root):
        return CocoRegions(annotations=root / "file.json", images=root)


class TestFolderRegions(DatasetKit):
    def write(self, root: Path) -> None:
        pictures(root)
        mask = Image.new("L", (16, 16))
        mask.paste(255, (2, 2, 9, 9))
        mask.save(root / "mask.png")
        rows = [{"image": f"{name}.png", "mask": "mask.png", "caption": "a cup"} for name in "ab"]
        (root / "regions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def empty(self, root: Path) -> None:
        (root / "regions.jsonl").write_text("")

    def make(self, root):
        return FolderRegions(root=root)


class TestLabelme(DatasetKit):
    def write(self, root: Path) -> None:
        pictures(root)
        for name in "ab":
            shapes = [{"label": "cup", "points": [[2, 2], [8, 2], [8, 8 + row]], "shape_type": "polygon"} for row in (0, 4)]
            (root / f"{name}.json").write_text(json.dumps({"shapes": shapes, "imagePath": f"{name}.png"}))

    def make(self, root):
        return Labelme(root=root)


class TestVia(DatasetKit):
    def write(self, root: Path) -> None:
        pictures(root)
        regions = [{"shape_attributes": {"name": "rect", "x": 2, "y": 2, "width": 6, "height": 6}, "region_attributes": {"kind": "cup"}}]
        entries = {f"{name}.png9": {"filename": f"{name}.png", "size": 9, "regions": regions} for name in "ab"}
        (root / "via.json").write_text(json.dumps({"_via_img_metadata": entries}))

    def empty(self, root: Path) -> None:
        (root / "via.json").write_text(json.dumps({"_via_img_metadata": {}}))

    def make(self, root):
        return Via(annotations=root / "via.json", images=root)


class FolderKit(TestFolderRegions):
    """Each line has what a line may have."""

    __test__ = False

    def write(self, root: Path) -> None:
        super().write(root)
        row = {"mask": "mask.png", "captions": ["a cup", "it"], "category": "cup", "extra": {"question": "what?", "box": [2, 2, 9, 9]}}
        rows = [{"image": "a.png", **row, "id": f"all-{i}"} for i in range(2)]
        with (root / "regions.jsonl").open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


class TestFolderRegionsWithEverything(FolderKit):
    __test__ = True
    empty_masks = True

    def write(self, root: Path) -> None:
        super().write(root)
        with (root / "regions.jsonl").open("a") as file:
            file.write(json.dumps({"image": "a.png", "mask": None, "caption": "the dog"}) + "\n")

    def make(self, root):
        return FolderRegions(root=root, empty_masks=True)


class TestRepeat(FolderKit):
    __test__ = True

    def make(self, root):
        return Repeat(data=FolderRegions(root=root), times=3)


class TestConcat(FolderKit):
    __test__ = True

    def make(self, root):
        return Concat(data={"one": FolderRegions(root=root), "two": Repeat(data=FolderRegions(root=root), times=2)})


class TestFilter(FolderKit):
    __test__ = True

    def make(self, root):
        return Filter(data=FolderRegions(root=root), min_share=0.01, min_words=2)


class TestAugment(FolderKit):
    __test__ = True

    def make(self, root):
        return Augment(
            data=FolderRegions(root=root),
            brightness=(0.5, 1.5),
            contrast=(0.5, 1.5),
            colour=(0.0, 2.0),
            blur=(0.0, 2.0),
            crop=(0.3, 1.0),
            flip=0.5,
        )
