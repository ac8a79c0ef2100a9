"""Each data set names the files that describe its samples, so that a run can tell whether they have changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.contracts import KnowsItsFiles
from plugins.datasets.dam import Dam
from plugins.datasets.refcoco import Refcoco
from plugins.datasets.sa1b import Sa1b


@pytest.mark.parametrize(
    ("make", "below", "names"),
    [
        (Refcoco, "ref_seg", ["refs(unc).p", "instances.json"]),
        (lambda root: Dam(root=root, split="LVIS"), "dam", ["annotations.json"]),
        (lambda root: Dam(root=root, split="SAV"), "dam", ["annotations.json"]),
    ],
)
def test_annotation_files_are_named_in_one_order(world: Path, make: Any, below: str, names: list[str]) -> None:
    data = make(root=world / below)
    assert isinstance(data, KnowsItsFiles)
    files = data.its_files()
    assert [file.name for file in files] == names
    assert all(file.is_file() for file in files)


def test_of_many_files_all_that_are_few(world: Path) -> None:
    [root] = {file.parent for file in world.rglob("sa_*.json")} or {None}
    assert root is not None
    files = Sa1b(root=root).its_files()
    assert sorted(files) == sorted(root.rglob("sa_*.json"))
