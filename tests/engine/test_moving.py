"""Values that move with the updates: set, logged, resumed; what cannot move is refused."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from core.contracts import UserError
from core.engine import building, runner
from core.recipe import Recipe, check, load
from core.recipe.moving import Moving, Way
from core.registry import Registry
from tests.engine.whole_runs import ROOT, at, equal, go

Make = Callable[..., Recipe]

MOVING = (
    "loops.loop1.tasks.pseudo.sampler.temperature={from: 2.0, to: 0.5, over: 2}",
    "loops.loop1.tasks.pseudo.token_mask_ratio={from: 0.0, to: 1.0, over: 4, shape: steps, steps: 2}",
    "loops.loop2.weight={from: 0.0, to: 0.5, over: 2, after: 1}",
    "teacher.decay={from: 0.5, to: 0.9, over: 3, shape: cosine}",
)


def test_moving_values_are_set_logged_and_resumed(tiny: Make) -> None:
    recipe = tiny(*MOVING)
    run = go(recipe)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["loops.loop1.tasks.pseudo.sampler.temperature"] for line in lines] == [2.0, 1.25, 0.5, 0.5]
    assert [line["loops.loop1.tasks.pseudo.token_mask_ratio"] for line in lines] == [0.0, 0.0, 0.5, 0.5]
    assert [line["loops.loop2.weight"] for line in lines] == [0.0, 0.0, 0.25, 0.5]
    assert [line["teacher.decay"] for line in lines] == pytest.approx([0.5, 0.6, 0.8, 0.9])
    whole = at(run, 4)
    shutil.rmtree(run / "checkpoints" / "update-000004")
    runner.run(recipe, Registry(), resume=run, quiet=True)
    assert all(equal(whole[name], at(run, 4)[name]) for name in whole)


def test_a_moving_value_that_stands_still_is_the_plain_one(tiny: Make, finished: Path) -> None:
    plain = at(finished, 4)
    still = (
        "loops.loop1.tasks.pseudo.sampler.temperature={from: 0.7, to: 0.7, over: 9}",
        "loops.loop2.weight={from: 0.5, to: 0.5, over: 1}",
    )
    moved = at(go(tiny(*still)), 4)
    assert all(equal(plain[name], moved[name]) for name in plain)


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ("linear", [2.0, 2.0, 1.5, 1.0, 0.5, 0.5]),
        ("cosine", [2.0, 2.0, 0.5 + 1.5 * (1 + math.cos(math.pi / 3)) / 2, 0.5 + 1.5 * (1 + math.cos(2 * math.pi / 3)) / 2, 0.5, 0.5]),
        ("exponential", [2.0, 2.0, 2.0 * 0.25 ** (1 / 3), 2.0 * 0.25 ** (2 / 3), 0.5, 0.5]),
        ("steps", [2.0, 2.0, 2.0, 1.25, 0.5, 0.5]),
    ],
)
def test_the_shapes(shape: str, wanted: list[float]) -> None:
    value = Moving(2.0, 0.5, Way(over=3, shape=shape, after=1, steps=2))  # type: ignore[arg-type]
    assert [value.at(update) for update in range(6)] == pytest.approx(wanted)
    whole = Moving(4, 8, Way(over=2), whole=True)
    assert [(value, type(value)) for value in (whole.at(update) for update in range(4))] == [(4, int), (6, int), (8, int), (8, int)]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.lr={from: 1.0, to: 2.0, over: 3}", "optimizer.lr: this number cannot move"),
        ("train.clip_norm={from: 1.0, to: 2.0, over: 3}", "train.clip_norm: this number cannot move"),
        ("loops.loop2.weight={from: 1.0, to: -2.0, over: 3}", "loops.loop2.weight: expected a value >= 0, got -2"),
        ("teacher.decay={from: 0.5, to: 0.9}", "teacher.decay: missing key 'over'"),
        ("teacher.decay={from: 0.5, to: 0.9, over: 3, shap: cosine}", "unknown key 'shap', did you mean 'shape'?"),
        ("teacher.decay={from: 0.5, to: high, over: 3}", "teacher.decay.to: expected a number, got 'high'"),
        ("teacher.decay={from: 0.0, to: 0.9, over: 3, shape: exponential}", "the shape exponential needs from and to of one sign"),
        ("teacher.decay={from: 0.5, to: 0.9, over: 0}", "teacher.decay.over: expected a value >= 1, got 0"),
    ],
)
def test_what_cannot_move_is_a_fault_of_the_recipe(tiny: Make, override: str, words: str) -> None:
    recipe = load(ROOT / "recipes" / "dual_loop_tiny.yaml", [override])
    assert any(words in str(fault) and "command line" in str(fault) for fault in check(recipe, Registry())), check(recipe, Registry())


def test_a_component_that_computes_from_the_number_is_refused(tiny: Make, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from plugins.samplers.st_gumbel_topk import StGumbelTopk\n"
        "class Derived(StGumbelTopk):\n"
        "    def __init__(self, k: int = 4, temperature: float = 1.0) -> None:\n"
        "        super().__init__(k=k, temperature=temperature)\n"
        "        self.inverse = 1 / temperature\n"
        "class Hidden(StGumbelTopk):\n"
        "    def __init__(self, k: int = 4, heat: float = 1.0) -> None:\n"
        "        super().__init__(k=k, temperature=heat)\n"
    )
    path = "loops.loop1.tasks.pseudo.sampler"
    for use, key, words in (
        ("Derived", "temperature", "temperature cannot move: .*Derived computes inverse from it"),
        ("Hidden", "heat", "heat cannot move: .*Hidden keeps no attribute 'heat'"),
    ):
        with pytest.raises(UserError, match=words):
            building.build_run(
                tiny(f"{path}={{use: {tmp_path / 'mine.py'}:{use}, k: 4, {key}: {{from: 2.0, to: 0.5, over: 9}}}}"),
                Registry(),
                tmp_path,
                None,
            )
