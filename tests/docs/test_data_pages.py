"""The examples of the pages on data: the lines of a folder, the recipes, and the data set that draws."""

from __future__ import annotations

import json
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from PIL import Image

from core.contracts import Draws, Region
from core.engine.feed import Feed, Supply
from core.engine.plan import Plan, Source
from core.recipe import Recipe, build
from core.registry import Registry
from core.testing.datasets import same_region
from core.testing.tiny_model import TinyPreparation
from plugins.datasets.folder_regions import FolderRegions

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, heading: str, language: str) -> list[str]:
    [section] = re.findall(rf"^##? {heading}\n(.*?)(?=^## |\Z)", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    found = re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert found
    return found


@pytest.fixture
def kitchen(tmp_path: Path) -> Path:
    """The folder that the page describes."""
    [lines] = blocks("data.md", "Your own data", "json")
    (tmp_path / "regions.jsonl").write_text(lines)
    Image.new("RGB", (20, 10), (200, 100, 50)).save(tmp_path / "kitchen.jpg")
    mask = Image.new("L", (20, 10))
    mask.paste(255, (3, 2, 8, 6))
    mask.save(tmp_path / "kitchen_cup.png")
    return tmp_path


def test_the_lines_of_a_folder_are_read(kitchen: Path) -> None:
    data = FolderRegions(root=kitchen, empty_masks=True)
    first, second, third = (data[index] for index in range(3))
    assert (first.caption, first.captions) == ("a red cup on the left", [])
    assert (second.caption, list(second.captions), second.category) == (None, ["a red cup", "the cup by the tap"], "cup")
    assert second.extra == {"depth": 1.4}
    assert third.mask.shape == (10, 20)
    assert not third.mask.any()


@pytest.mark.parametrize("heading", ["Wrappers", "Mixture weights"])
def test_the_recipes_are_taken_and_built(heading: str, kitchen: Path, tiny: Callable[..., Recipe]) -> None:
    [text] = blocks("data.md" if heading == "Wrappers" else "mixture.md", heading, "yaml")
    data = yaml.safe_load(text.replace("/data/kitchen", str(kitchen)))["data"]
    others = () if heading == "Wrappers" else ("loops.loop1.tasks.pseudo.data={sav: {weight: 1}, sa1b: null, openimages: null}",)
    place = "loops.loop1.tasks.referring.data"
    more = "" if heading == "Wrappers" else ", refcoco: {weight: 3}"
    recipe = tiny(f"{place}={{kitchen: {json.dumps(data.pop('kitchen'))}{more}}}", *others)  # ``tiny`` asserts that it has no fault
    if heading == "Mixture weights":
        assert isinstance(build(recipe, ("loops", "loop1", "tasks", "referring", "data", "kitchen"), Registry()), FolderRegions)


def test_the_data_set_that_draws(kitchen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = blocks("write/datasets.md", "A data set that draws", "python")
    module = ModuleType("darker")
    monkeypatch.setitem(sys.modules, "darker", module)
    exec(compile(code, "darker", "exec"), vars(module))
    (kitchen / "regions.jsonl").write_text((kitchen / "regions.jsonl").read_text().splitlines()[0])
    data = module.Darker(data=FolderRegions(root=kitchen), least=0.3)
    assert isinstance(data, Draws)
    plain: Region = data[0]
    same_region(plain, FolderRegions(root=kitchen)[0])
    drawn = [pickle.loads(pickle.dumps(data)).draw(0, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    same_region(drawn[0], drawn[1])
    assert drawn[0].extra != drawn[2].extra
    assert drawn[0].id == plain.id
    plan = Plan([Source("l", "t", "s", data, frozenset())], 1, 4)
    feed = Feed("l", Supply({"l": plan}, TinyPreparation(), [(0, "l")], 4), 0.0)
    [micro] = feed.update()
    factors = [one["factor"] for one in micro.parts[0][1].extra]
    assert len(set(factors)) == 4  # four visits, in four epochs
    assert all(0.3 <= factor <= 1 for factor in factors)
