"""Every shipped recipe, found by glob, passes its check and names only what is registered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.scaling import QWEN, VISION, VOCABULARY
from core.commands.run import main
from core.engine.memory import GIB, need
from core.preflight.memory import on_a_gpu
from core.recipe import check, components_used, load
from core.registry import Registry
from plugins.models.sa2va.groups import PUBLISHED_GROUPS, Lora
from plugins.models.sa2va.network import Network
from plugins.models.sa2va.published.config import parse_config
from plugins.models.sa2va.published.facts import sizes
from plugins.models.sa2va.training import add_lora

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("**/*.yaml"))


def test_there_are_recipes() -> None:
    sizes = {"dual_loop_8gpu.yaml", "dual_loop_48gb.yaml", "dual_loop_24gb.yaml", "dual_loop_1gpu.yaml"}
    assert {"shapes_base.yaml", "dual_loop_tiny.yaml"} | sizes <= {recipe.name for recipe in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_shipped_recipe_passes_its_check(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load(path)
    assert [str(fault) for fault in check(recipe, Registry())] == []
    assert len(components_used(recipe, Registry())) > 10
    assert main([str(path), "--check", "--elsewhere"]) == 0
    assert "recipe OK" in capsys.readouterr().out


def test_the_big_recipe_reports_its_placeholders(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(next(path for path in RECIPES if path.name == "dual_loop_8gpu.yaml")), "--check"]) == 2
    printed = capsys.readouterr()
    assert "launch.device: launch asks for 8 GPUs, 0 found" in printed.err
    assert "for another machine check it with --check --elsewhere" in printed.err
    assert "model.checkpoint: /path/to/Sa2VA-4B does not exist" in printed.err
    assert "256 = 16 x 2 accumulated x 8 processes" in printed.out


@pytest.mark.parametrize(
    ("name", "size", "card", "most"),
    [
        ("dual_loop_8gpu", "4B", 80, 60),
        ("dual_loop_8gpu", "1B", 80, 60),
        ("dual_loop_48gb", "4B", 48, 40),
        ("dual_loop_24gb", "1B", 24, 19),
        ("dual_loop_1gpu", "4B", 80, 60),
    ],
)
def test_an_update_fits_the_card_that_the_recipe_is_for(name: str, size: str, card: float, most: float) -> None:
    """By the estimate of ``core.check``, at the published sizes, with as many samples in an update as on eight large cards."""
    recipe, registry = load(next(path for path in RECIPES if path.stem == name)), Registry()
    train = recipe.values["train"]
    assert train["batch_size"] * train["accumulate"] * recipe.values["launch"]["processes"] == 256
    facts = published_sizes(size, recipe.values["model"]["dtype"])
    assert need(recipe, registry, facts).counted < most * GIB
    assert [one.status for one in on_a_gpu(recipe, registry, facts, [], card)] == ["pass"]
    kept = load(recipe.file, ["train.activation_checkpointing=false"])
    assert [one.status for one in on_a_gpu(kept, registry, facts, [], card)] == ["fail"]


def published_sizes(size: str, dtype: str) -> dict[str, Any]:
    """What is known of a published size without its checkpoint."""
    published = {"llm_config": {**QWEN[size], "vocab_size": VOCABULARY}, "vision_config": VISION}
    with torch.device("meta"):
        network = Network(parse_config(published | {"force_image_size": 448, "ps_version": "v2"}))
        add_lora(network, Lora())
    return sizes(network, list(PUBLISHED_GROUPS), dtype, 12, Lora())
