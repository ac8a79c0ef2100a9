"""The controls of the shipped experiments, and their files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from core.contracts import Region
from core.experiments.reading import read_experiment
from core.experiments.run_recipes import recipes
from core.registry import Registry

FOLDER = Path("recipes/experiments")


@pytest.fixture(scope="module")
def parts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("experiment_parts", FOLDER / "parts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def one_region() -> list[Region]:
    mask = np.zeros((10, 20), bool)
    mask[2:4, 5:8] = True
    return [Region("a", np.zeros((10, 20, 3), np.uint8), mask, "a large red circle", captions=["one two"])]


def test_a_wrong_mask_is_moved_and_never_empty(parts: ModuleType) -> None:
    moved = parts.WrongMasks(data=one_region(), shift=0.1)[0].mask
    assert np.argwhere(moved).min(0).tolist() == [3, 7]
    assert moved.sum() == 6
    assert np.array_equal(parts.WrongMasks(data=one_region(), shift=0.9)[0].mask, one_region()[0].mask)


def test_the_other_style_has_the_same_words(parts: ModuleType) -> None:
    region = parts.OtherStyle(data=one_region())[0]
    assert (region.caption, list(region.captions)) == ("circle red large a", ["two one"])


def test_detached_text_is_the_same_text(parts: ModuleType) -> None:
    import torch

    text = torch.ones(1, 2, 3, requires_grad=True) * 2
    found, seen = parts.Detached(sampler=lambda *given: (text, {"ids": given[0]}))(0, 1, 2, 3)
    assert torch.equal(found, text)
    assert not found.requires_grad
    assert seen == {"ids": 0}


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml") if not path.stem.endswith(".recipe")))
def test_a_shipped_experiment_is_sound(name: str) -> None:
    experiment = read_experiment(FOLDER / f"{name}.yaml")
    cells = experiment.cells()
    first = next(iter(experiment.cases))
    assert recipes(experiment, [cell for cell in cells if cell.case == first and cell.seed in (None, 1)], Registry())
    assert sum(variant.untrained for variant in experiment.variants.values()) == 1
    assert experiment.metrics
