"""``every_n``: which loops take part, and the running gradient that the engine keeps for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.contracts import UserError
from core.engine import building, runner
from core.engine.parallel.gradients import Gradients
from core.engine.running_gradient import RunningGradient
from core.recipe import Recipe, check
from core.registry import Registry
from plugins.schedules.every_n import EveryN
from tests.engine.distributed_worker import on_ranks

Make = Callable[..., Recipe]
SCHEDULE = "schedule={{use: every_n, main: loop1, other: loop2, n: 2, together: {}}}"
COMMON = ("optimizer.eps=1.0e-3", "optimizer.lr=0.01", "model.lora={r: 4, alpha: 8, dropout: 0.0}")


@pytest.mark.parametrize(("together", "nth"), [(True, ["loop1", "loop2"]), (False, ["loop2"])])
def test_the_other_loop_takes_part_in_every_nth_update(together: bool, nth: list[str]) -> None:
    schedule = EveryN(main="loop1", other="loop2", n=3, together=together)
    assert [list(schedule.loops(update)) for update in range(6)] == [["loop1"], ["loop1"], nth, ["loop1"], ["loop1"], nth]
    assert schedule.running == ("loop1", 0.9)


@pytest.mark.parametrize("wrong", [{"n": 0}, {"other": "loop1"}, {"decay": 1.0}, {"n": 1, "together": False}])
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must|would"):
        EveryN(**({"main": "loop1", "other": "loop2", "n": 2} | wrong))  # type: ignore[arg-type]


def test_a_loop_that_is_not_there_is_a_fault(tiny: Make) -> None:
    recipe = tiny()
    recipe.values["schedule"] = {"use": "every_n", "main": "loop1", "other": "loop3", "n": 2}
    recipe.plans.clear()
    assert any("there is no loop 'loop3'" in str(fault) for fault in check(recipe, Registry()))


def only(folder: Path) -> Path:
    [run] = folder.iterdir()
    return run


def train(recipe: Recipe) -> Path:
    assert runner.run(recipe, Registry(), quiet=True) == 0
    return only(Path(recipe.values["output"]))


@pytest.mark.parametrize("together", [True, False])
def test_the_other_loop_is_projected_against_the_running_mean(tiny: Make, tmp_path: Path, together: bool) -> None:
    """The combined gradient of the second update, by hand from the gradients of both loops."""
    recipe = tiny(SCHEDULE.format(str(together).lower()), *COMMON, "train.clip_norm=1.0e+9")
    trainer = building.build_run(recipe, Registry(), tmp_path, None).trainer
    taken: list[dict[str, torch.Tensor]] = []
    combined: list[torch.Tensor] = []
    reduce = trainer.strategy.reduce

    def spy_reduce(gradients: list[Gradients]) -> None:
        reduce(gradients)
        taken.append({name: gradient.whole.clone() for name, gradient in zip(trainer.schedule.loops(len(taken)), gradients, strict=True)})

    def before_step(*given: object) -> None:
        parts = [p for members in trainer.strategy.groups.values() for _, p in members]
        combined.append(torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parts]))

    trainer.strategy.reduce = spy_reduce  # type: ignore[method-assign]
    trainer.strategy.stepper.optimizer.register_step_pre_hook(before_step)
    trainer.update(0)
    values = trainer.update(1)
    torch.testing.assert_close(combined[0], taken[0]["loop1"])
    mean = 0.1 * taken[0]["loop1"]
    if together:
        mean = 0.9 * mean + 0.1 * taken[1]["loop1"]
    g2 = taken[1]["loop2"]
    wanted = 0.5 * (g2 - (g2 @ mean) / (mean @ mean) * mean)
    assert abs(wanted @ mean) < 1e-5 * wanted.norm() * mean.norm()
    if together:
        wanted = wanted + taken[1]["loop1"]
    torch.testing.assert_close(combined[1], wanted, rtol=1e-4, atol=1e-6)
    assert values["surgery/norm/loop1"] == pytest.approx(float(mean.norm()), rel=1e-4)


def test_the_running_gradient_is_saved_and_resumed_also_on_two_processes(tiny: Make, tmp_path: Path) -> None:
    recipe = tiny(SCHEDULE.format("true"), *COMMON, "checkpoint={every: 1, keep: 9}")
    run = train(recipe)
    last = run / "checkpoints" / "update-000004"
    whole = {name: load_file(last / f"{name}.safetensors") for name in ("trained", "optimizer", "running")}
    assert any(tensor.any() for tensor in whole["running"].values())
    shutil.copytree(run, tmp_path / "other")
    shutil.rmtree(last)
    assert runner.run(recipe, Registry(), resume=_cut(run), quiet=True) == 0
    for name, tensors in whole.items():
        again = load_file(last / f"{name}.safetensors")
        assert all(torch.equal(tensors[key], again[key]) for key in tensors), name
    changed = tmp_path / "other" / "recipe.yaml"
    text = changed.read_text().replace("strategy: single", "strategy: ddp").replace("processes: 1", "processes: 2")
    changed.write_text(text.replace("batch_size: 4", "batch_size: 2"))
    on_ranks(2, [{"recipe": str(changed), "resume": str(_cut(tmp_path / "other"))}])
    found = load_file(tmp_path / "other" / "checkpoints" / last.name / "trained.safetensors")
    assert max(float((whole["trained"][key] - found[key]).abs().max()) for key in found) < 1e-5


def _cut(run: Path) -> Path:
    """The run as after its first update: the mean of the third is then still to be made."""
    for folder in (run / "checkpoints").glob("update-00000[234]"):
        shutil.rmtree(folder)
    (run / "result.json").unlink(missing_ok=True)
    assert json.loads((run / "checkpoints" / "update-000001" / "state.json").read_text())["update"] == 1
    return run


def test_a_running_gradient_of_another_model_is_refused() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    running = RunningGradient({"g": [("w", parameter)]}, "loop1", 0.5)
    with pytest.raises(UserError, match="the saved running gradient does not fit"):
        running.load_state_dict({"g/w": torch.ones(4)})
