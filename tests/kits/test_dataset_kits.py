"""The built-in data sets against their contract kit, each on its part of the small synthetic world."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from core.testing import DatasetKit
from plugins.datasets.dam import Dam
from plugins.datasets.openimages import OpenImages
from plugins.datasets.refcoco import Refcoco
from plugins.datasets.sa1b import Sa1b
from plugins.datasets.sav_pairs import SavPairs
from plugins.datasets.shapes import write_world


@pytest.fixture(scope="session")
def little_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kits") / "shapes"
    write_world(folder, pictures=10, seed=5, size=64)
    return folder


class WorldKit(DatasetKit):
    """Takes its source from the synthetic world."""

    part = ""

    @pytest.fixture(scope="class")
    def sound(self, little_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return Path(shutil.copytree(little_world / self.part, tmp_path_factory.mktemp("sound") / "root"))


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


class TestDam(WorldKit):
    part = "dam"

    def make(self, root):
        return Dam(root=root, split="LVIS")
