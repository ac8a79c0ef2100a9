"""A task that reaches nothing trained is named when the run begins, also where it takes part later; to try it leaves no trace."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from core.contracts import UserError
from core.engine import building, runner
from core.engine.reach import _late, require_reach
from core.recipe import Recipe
from core.registry import Registry

Make = Callable[..., Recipe]
STAGES = "schedule={use: stages, stages: [{loops: [loop1], until: 2}, {loops: [loop1, loop2]}]}"
TINY = "train={updates: 4, batch_size: 2, accumulate: 1, clip_norm: 1.0}"


def test_a_late_loop_that_reaches_nothing_is_told_before_the_first_update(tiny: Make, tmp_path: Path) -> None:
    recipe = tiny("model.train=[sam2_decoder]", "model.lora=null", "gradient={use: sum}", STAGES, TINY)
    with pytest.raises(UserError, match=r"^loop2/cycle: no loss of it reaches a trained weight; train a group"):
        runner.run(recipe, Registry(), quiet=True)
    assert not list((tmp_path / "runs").iterdir())  # nothing was trained


def test_trying_it_leaves_no_trace(tiny: Make, tmp_path: Path) -> None:
    moving = "loops.loop2.tasks.cycle.losses.caption.label_smoothing={from: 0.0, to: 0.2, over: 4}"
    runs = [building.build_run(tiny(STAGES, TINY, moving), Registry(), tmp_path, None) for _ in range(2)]
    buffers = [buffer.clone() for buffer in runs[0].model.buffers()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    wanted = random.random(), np.random.rand(), torch.rand(1)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert require_reach(runs[0].trainer, 0, 4) == ["loop1/referring", "loop2/cycle"]  # the first update draws none of referring
    assert (random.random(), np.random.rand(), torch.rand(1)) == wanted
    assert all(map(torch.equal, buffers, runs[0].model.buffers()))
    assert all(p.grad is None for p in runs[0].model.parameters())
    for number in range(3):
        now, then = ({k: v for k, v in run.trainer.update(number).items() if not k.startswith("time")} for run in runs)
        assert now == then
    assert "loop2/loss" in now
    for (name, mine), (_, other) in zip(*(run.model.network.named_parameters() for run in runs), strict=True):
        assert torch.equal(mine, other), name


def test_a_task_that_cannot_be_tried_is_told(tiny: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = building.build_run(tiny(STAGES, TINY), Registry(), tmp_path, None).trainer
    made.loops["loop2"].tasks["cycle"].lock = threading.Lock()
    require_reach(made, 0, 4)
    [told] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert told.startswith("note: loop2/cycle is not tried before its first update, 3: it cannot be copied (TypeError: ")


def trainer(slots: dict[str, list[list[str]]], schedule: Callable[[int], list[str]]) -> Any:
    """``slots``: of each loop, the tasks of its samples in update after update."""
    loops = {}
    for name, updates in slots.items():
        tasks = sorted({task for update in updates for task in update})
        sources = [SimpleNamespace(task=task) for task in tasks]
        made = [[SimpleNamespace(source=tasks.index(task)) for task in update] for update in updates]
        supply = SimpleNamespace(plans={name: SimpleNamespace(sources=sources, slots=made.__getitem__)}, micro=2)
        loops[name] = SimpleNamespace(tasks=dict.fromkeys(tasks), feed=SimpleNamespace(supply=supply))
    return SimpleNamespace(loops=loops, schedule=SimpleNamespace(loops=schedule))


def late(made: Any, start: int, updates: int) -> list[tuple[int, str, str]]:
    return [found[:3] for found in _late(made, start, updates)]


def test_what_comes_later_is_found() -> None:
    made = trainer(
        {"a": [["x", "x"], ["x", "y"], ["y", "z"]], "b": [["u"], ["u"], ["v"]]}, lambda number: ["a"] if number < 2 else ["a", "b"]
    )
    assert late(made, 0, 3) == [(1, "a", "y"), (2, "a", "z"), (2, "b", "v")]
    assert late(made, 0, 2) == [(1, "a", "y")]  # what never comes is not tried
    assert late(made, 1, 3) == [(2, "a", "z"), (2, "b", "v")]  # after a resume
    assert late(made, 2, 3) == []
    assert late(trainer({"a": [["x", "y"]] * 9}, lambda number: ["a"]), 0, 9) == []  # all of it in the first update: nothing to try
