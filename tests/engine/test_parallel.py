"""Strategies are parts put together by a table: the names agree with the recipe's, a new part needs a line, no module circle."""

from __future__ import annotations

import ast
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from core.engine import parallel
from core.engine.parallel import STRATEGIES, Parts, make_strategy, part
from core.engine.parallel.exchange import Alone
from core.engine.parallel.step import TorchStep
from core.engine.parallel.transforms import TRANSFORMS, Transform, transform
from core.recipe.schema import Launch

ENGINE = Path(parallel.__file__).parents[1]
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
    monkeypatch.setattr(parallel.transforms, "TRANSFORMS", [*TRANSFORMS, Transform(lambda values: True, f"{__name__}:negated")])
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    transform(model, ASKED, Alone())
    assert torch.equal(model.weight, -before)


def _imports(file: Path, package: str) -> Iterator[str]:
    """Modules below ``core.engine.parallel`` and ``core.engine.launch`` that a file imports, also inside functions."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    guarded = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    skipped = {id(inner) for node in guarded for inner in node.body}  # for the type checker alone
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in skipped and (node.module or "").startswith(package):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if _file(name) else str(node.module) for name in names)


def _file(module: str) -> Path | None:
    place = ENGINE.parents[1].joinpath(*module.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


@pytest.mark.parametrize("room", ["parallel", "launch"])
def test_no_module_imports_itself_round_a_corner(room: str) -> None:
    package = f"core.engine.{room}"
    # the door of a room imports its modules: whoever imports the door from within would go round
    graph = {f"{package}.{file.stem}".removesuffix(".__init__"): set() for file in (ENGINE / room).glob("*.py")}
    for module in graph:
        file = _file(module)
        assert file is not None
        graph[module] = set(_imports(file, package)) & set(graph)
    if room == "parallel":
        graph[package] = set()  # its door imports parts late, by the table: that is what the table is for

    def reach(module: str, seen: tuple[str, ...]) -> None:
        assert module not in seen, " -> ".join([*seen[seen.index(module) :], module])
        for other in graph[module]:
            reach(other, (*seen, module))

    for module in graph:
        reach(module, ())
