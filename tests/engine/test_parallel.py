"""Strategies are parts put together by a table: the names agree with the recipe's, and a new part needs a line."""

from __future__ import annotations

import typing

import pytest
import torch
from torch import nn

from core.engine.parallel import transforms
from core.engine.parallel.exchange import Alone
from core.engine.parallel.step import TorchStep
from core.engine.parallel.strategy import make_strategy
from core.engine.parallel.table import STRATEGIES, Parts, part
from core.engine.parallel.transforms import TRANSFORMS, Transform, transform
from core.recipe.schema import Launch

ASKED: dict[str, typing.Any] = {
    "launch": {"strategy": "single", "device": "cpu"},
    "train": {"compile": False, "activation_checkpointing": False},
}


def test_the_recipe_names_the_strategies_of_the_table() -> None:
    hint = typing.get_type_hints(Launch)["strategy"]
    assert set(typing.get_args(hint)) == set(STRATEGIES)
    for parts in STRATEGIES.values():
        assert callable(part(parts.step))


class HalfStep(TorchStep):
    """Steps in every second update: a part of one's own."""

    updates = 0

    def step(self) -> None:
        self.updates += 1
        if self.updates % 2 == 0:
            super().step()


def half_step(groups, optimizer, exchange, launch) -> HalfStep:
    return HalfStep(optimizer)


def test_a_new_step_is_one_part_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STRATEGIES, "half", Parts(several=False, step=f"{__name__}:half_step"))
    weight = nn.Parameter(torch.ones(3))
    groups = {"g": [("w", weight)]}
    strategy = make_strategy({"strategy": "half"}, groups, torch.optim.SGD([weight], lr=0.5), 1e9, Alone(), 1)
    seen = []
    for _ in range(4):
        with strategy.gradient() as gradient:
            strategy.backward(weight.sum())
        strategy.reduce([gradient])
        assert strategy.step([gradient], torch.ones(1, 1, dtype=torch.float64)) == pytest.approx(3**0.5)
        seen.append(weight[0].item())
    assert seen == [1.0, 0.5, 0.5, 0.0]
    assert weight.grad is None


def negated(model: nn.Module, exchange: Alone) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.neg_()


def test_a_new_transform_is_one_function_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "TRANSFORMS", [*TRANSFORMS, Transform(lambda values: True, f"{__name__}:negated")])
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    transform(model, ASKED, Alone())
    assert torch.equal(model.weight, -before)
