"""A whole run on drawn samples, several captions, weights and phrases without a target, on one process and two, and resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from core.engine import runner
from core.recipe import Recipe
from core.registry import Registry
from tests.engine.test_run import go, logged, tensors

Make = Callable[..., Recipe]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven regions with two captions each, so that four samples an update end epochs within updates; two have no target."""
    root = tmp_path / "mine"
    root.mkdir()
    lines = []
    for i in range(7):
        Image.new("RGB", (64, 48), (30 * i, 200 - 20 * i, 90)).save(root / f"{i}.png")
        mask = Image.new("L", (64, 48))
        mask.paste(255, (4 + i, 6, 30 + i, 30))
        mask.save(root / f"{i}.mask.png")
        line = {"image": f"{i}.png", "mask": f"{i}.mask.png" if i % 3 else None, "captions": [f"a red square {i}", "the circle"]}
        lines.append(json.dumps(line | {"id": str(i), "category": "shape"}))
    (root / "regions.jsonl").write_text("\n".join(lines))
    return root


def mixed(tiny: Make, folder: Path, *more: str) -> Recipe:
    inner = f"{{use: folder_regions, root: {folder}, empty_masks: true}}"
    return tiny(
        f"loops.loop1.tasks.referring.data.mine={{use: augment, data: {inner}, brightness: [0.7, 1.3], flip: 0.5, weight: 3}}",
        "loops.loop1.tasks.referring.empty_masks=true",
        "loops.loop1.tasks.referring.data.refcoco.weight=1",
        "loops.loop1.tasks.pseudo.data={sav: {weight: 1}, sa1b: null, openimages: null}",
        *more,
    )


def test_drawn_samples_resume_bit_for_bit_and_share_by_weight(tiny: Make, folder: Path) -> None:
    whole = go(mixed(tiny, folder))
    cut = whole.with_name("cut")
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "update-000004")
    runner.run(mixed(tiny, folder, "train.workers=2"), Registry(), resume=cut, quiet=True)
    before, after = tensors(whole, 4), tensors(cut, 4)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert logged(whole) == logged(cut)
    assert all("loop1/referring/empty_found" in line for line in logged(whole))  # 3 of 5 samples are of ``mine``, 3 of whose 7 are empty
