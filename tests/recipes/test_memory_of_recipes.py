"""Updates fit the cards that recipes are for, by an estimate that is what was counted, setting by setting.

``benchmarks/counted.json`` was made by ``tests/gpu/counted_memory.py``.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.cards import config_of
from core.engine.memory import GIB, need
from core.preflight.memory import on_a_gpu
from core.recipe import load
from core.registry import Registry
from plugins.models.sa2va.groups import PUBLISHED_GROUPS, Lora
from plugins.models.sa2va.network import Network
from plugins.models.sa2va.published.config import parse_config
from plugins.models.sa2va.published.facts import sizes
from plugins.models.sa2va.training import add_lora

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
COUNTED = json.loads((ROOT / "benchmarks" / "counted.json").read_text())


@cache
def network(size: str) -> Network:
    """Without weights, with the recipes' adapters."""
    with torch.device("meta"):
        made = Network(parse_config(config_of(size)))
        add_lora(made, Lora(r=128, alpha=256, dropout=0.05))
    return made


def published_sizes(size: str, dtype: str, tiles: int = 12) -> dict[str, Any]:
    """What is known of a published size without its checkpoint."""
    return sizes(network(size), list(PUBLISHED_GROUPS), dtype, tiles)


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


@pytest.mark.parametrize("counted", COUNTED, ids=lambda row: " ".join([row["size"], row["recipe"], *row["overrides"]]))
def test_the_estimate_is_within_15_percent_of_the_counted_peak(counted: dict[str, Any]) -> None:
    recipe = load(str(ROOT / "recipes" / f"{counted['recipe']}.yaml"), counted["overrides"])
    model = recipe.values["model"]
    facts = published_sizes(counted["size"], model["dtype"], model.get("max_tiles", 12))
    estimated = need(recipe, Registry(), facts).counted / GIB
    print(f"{counted['size']} {counted['recipe']} {counted['overrides']}: counted {counted['peak']}, estimated {estimated:.2f}")
    assert abs(estimated / counted["peak"] - 1) <= 0.15


def test_the_settings_are_the_ones_that_matter() -> None:
    """Both sizes, with and without checkpointing, other tiles, batches, captions, dropout."""
    texts = [" ".join([row["size"], row["recipe"], *row["overrides"]]) for row in COUNTED]
    assert len(texts) >= 8
    for part in ("1B", "4B", "activation_checkpointing=false", "max_tiles=", "batch_size=", "caption_length=", "dropout=0", "24gb", "48gb"):
        assert any(part in text for text in texts), part
