"""What tests of whole runs share: running one, its checkpoints' tensors, and code of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file

from core.engine import runner
from core.recipe import Recipe
from core.registry import Registry

ROOT = Path(__file__).parents[2]


def example(page: str, heading: str, language: str = "python") -> str:
    """The code under a heading of a page of the documentation."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.search(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def go(recipe: Recipe, **options: object) -> Path:
    assert runner.run(recipe, Registry(), quiet=True, **options) == 0
    return max(Path(recipe.values["output"]).iterdir(), key=lambda folder: folder.stat().st_mtime_ns)


def at(run: Path, update: int) -> dict[str, dict[str, torch.Tensor]]:
    return {file.stem: load_file(file) for file in (run / "checkpoints" / f"update-{update:06d}").glob("*.safetensors")}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
