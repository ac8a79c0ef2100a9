"""A run that is killed at random instants ends as an unbroken one. ``tests/engine/chaos.py`` does more of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from core.recipe import Recipe, resolved_yaml
from core.registry import Registry
from tests.engine.chaos import Campaign


def test_three_kills_at_random_instants(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    short = tiny("train={updates: 8, batch_size: 2, accumulate: 1, clip_norm: 1.0}", "checkpoint={every: 1, keep: 2}")
    recipe.write_text(resolved_yaml(short, Registry()))
    done = Campaign(recipe, tmp_path / "runs", 1, random.Random(1), full_disks=False).go(kills=3)
    assert done.tensors > 100
    assert len(done.reached) == 3
