"""Weights of one's own, element-wise surgery and gradients by task, in whole runs of the small model."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from core.contracts import Gram, UserError
from core.engine import building, runner
from core.engine.own_weights import held, own_weights
from core.engine.parallel import gradients as flat
from core.engine.parallel.exchange import Alone
from core.recipe import Recipe, resolved_yaml
from core.registry import Registry
from plugins.gradient_ops.graddrop import GradDrop
from tests.engine.distributed_worker import carry_out, on_ranks
from tests.engine.whole_runs import at, equal, example, go
from tests.patience import HANGS_S

Make = Callable[..., Recipe]
ROOT = Path(__file__).parents[2]
GROUP = "loops.loop1.tasks.referring"
STILL = ("optimizer.eps=1.0e-3", "optimizer.lr=0.01", "model.lora={r: 4, alpha: 8, dropout: 0.0}")


@pytest.fixture
def balanced(tmp_path: Path) -> str:
    """The override that puts the documentation's loop with weights of its own into the recipe."""
    (tmp_path / "balanced.py").write_text(example("write/loops.md", "Weights of its own"), encoding="utf-8")
    return f"loops.loop1.tasks.referring.use={tmp_path / 'balanced.py'}:BalancedReferring"


# ---------------------------------------------------------------------------------------------- weights of one's own


def test_they_are_trained_saved_and_resumed_and_are_no_part_of_the_model(tiny: Make, balanced: str) -> None:
    recipe = tiny(balanced, "checkpoint.export=true", f"optimizer.group_lr={{{GROUP}: 10.0}}")
    run = go(recipe)
    whole = at(run, 4)
    assert set(whole["own"]) == {f"{GROUP}/log_variance"}
    assert whole["own"][f"{GROUP}/log_variance"].abs().min() > 1e-4
    assert not any(GROUP in name for name in whole["trained"])
    assert not any("log_variance" in name for file in (run / "export").glob("*.safetensors") for name in load_file(file))
    assert any(name.startswith(GROUP) for name in whole["optimizer"])
    for file in ("checkpoints/update-000004", "export"):
        shutil.rmtree(run / file)
    (run / "result.json").unlink()
    runner.run(recipe, Registry(), resume=run, quiet=True)
    again = at(run, 4)
    assert all(equal(whole[name], again[name]) for name in ("trained", "optimizer", "own", "teacher"))


def test_a_run_that_starts_from_one_with_some_says_that_they_begin_anew(
    tiny: Make, balanced: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = go(tiny(balanced, "train.updates=1", "checkpoint.every=1"))
    runner.run(tiny(balanced, "train.updates=1", "checkpoint.every=1", f"start_from={first}"), Registry())
    told = capsys.readouterr().out
    assert f"note: the weights that {GROUP} brought itself there are not taken over, they begin anew" in told


def test_a_checkpoint_without_them_is_refused_by_name(tiny: Make, balanced: str) -> None:
    run = go(tiny(balanced, "train.updates=2"))
    last = run / "checkpoints" / "update-000002"
    (last / "own.safetensors").unlink()
    with pytest.raises(UserError, match=r"does not fit this recipe's loops.*log_variance"):
        building.build_run(tiny(balanced, "train.updates=2"), Registry(), run, last)


@pytest.mark.parametrize("seen", [False, True])
def test_the_gradient_op_sees_them_where_the_recipe_says_so(tiny: Make, balanced: str, tmp_path: Path, seen: bool) -> None:
    """Their own loop alone reaches them. Where the op sees them they count in the anchor's length, and so in the projection."""
    run = building.build_run(tiny(balanced, *(["gradient.own_weights=surgery"] if seen else [])), Registry(), tmp_path, None)
    grams: list[Gram] = []
    ask = run.trainer.surgery.op.weights
    run.trainer.surgery.op.weights = lambda gram: (grams.append(gram), ask(gram))[1]  # type: ignore[method-assign]
    rows: list[torch.Tensor] = []
    step = run.trainer.strategy.step
    run.trainer.strategy.step = lambda order, weights: (rows.append(weights), step(order, weights))[1]  # type: ignore[method-assign]
    run.trainer.update(0)
    assert (GROUP in grams[0].groups) is seen
    assert rows[0].shape == (5, 2)
    if not seen:
        assert rows[0][-1].tolist() == [1.0, 0.5]  # the loops' weights, whatever the op says of the model's groups
        assert rows[0][0, 0] != 1.0


def test_weights_that_no_loss_reaches_are_told(tiny: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = example("write/loops.md", "Weights of its own")
    first = "        self.log_variance ="
    (tmp_path / "idle.py").write_text(code.replace(first, f"        self.idle = torch.nn.Parameter(torch.zeros(3))\n{first}"))
    recipe = tiny(f"loops.loop1.tasks.referring.use={tmp_path / 'idle.py'}:BalancedReferring")
    assert runner.run(recipe, Registry()) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: in ")]
    assert told == [f"warning: in 2 updates no loss has reached {GROUP}/idle: use them in the loop's losses, or freeze them"]
    assert not at(max((tmp_path / "runs").iterdir()), 4)["own"][f"{GROUP}/idle"].any()


class Nested:
    def __init__(self) -> None:
        self.head = nn.Linear(2, 3)
        self.also = self.head  # the same once more
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.parts = {"a": [nn.Parameter(torch.zeros(1))]}
        self.plain = Inner()
        self.numbers = list(range(5000))


class Inner:
    __slots__ = ("scale", "unset")

    def __init__(self) -> None:
        self.scale = nn.Parameter(torch.zeros(()))


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(1, 1)
        self.sampler = Inner()  # no module: it lies in the attributes of one


def test_they_are_found_in_attributes_modules_lists_and_slots_once_each() -> None:
    names = [name for name, _ in own_weights(Nested())]
    assert names == ["head.weight", "head.bias", "parts.a.0", "plain.scale"]
    assert [name for name, _ in own_weights(Wrapped())] == ["body.weight", "body.bias", "sampler.scale"]
    assert [name for name, _ in held(Nested())] == ["head", "frozen", "parts.a.0", "plain.scale"]
    with pytest.raises(UserError, match=r"must be float32, but head\.weight is float64, head\.bias is float64"):
        own_weights(type("Double", (), {"__init__": lambda self: vars(self).update(head=nn.Linear(1, 1).double())})())


@pytest.mark.parametrize(
    ("where", "override", "code"),
    [
        ("teacher", "teacher.use", "from plugins.teachers.ema import Ema\nclass Mine(Ema):\n"),
        ("gradient", "gradient.use", "from plugins.gradient_ops.weighted_sum import WeightedSum\nclass Mine(WeightedSum):\n"),
        ("schedule", "schedule.use", "from plugins.schedules.alternate import Alternate\nclass Mine(Alternate):\n"),
    ],
)
def test_weights_that_nothing_would_train_are_refused(tiny: Make, tmp_path: Path, where: str, override: str, code: str) -> None:
    given, passed = ("self, order: list[str]", "order=order") if where == "schedule" else ("self", "")
    scale = "        self.scale = torch.nn.Parameter(torch.ones(2))\n"
    init = f"    def __init__({given}) -> None:\n        super().__init__({passed})\n{scale}"
    (tmp_path / "mine.py").write_text("import torch\n" + code + init)
    with pytest.raises(UserError, match=rf"{where}: its weights scale ask for a gradient, but no loss reaches them.*requires_grad_"):
        building.build_run(tiny(f"{override}={tmp_path / 'mine.py'}:Mine"), Registry(), tmp_path, None)


# ---------------------------------------------------------------------------------------------- surgery


def test_element_wise_ops_get_the_whole_gradients_and_make_the_step(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "CHUNK", 1000)  # parts that end in the middle of a group
    (tmp_path / "agreement.py").write_text(example("write/gradient_ops.md", "Number by number"))
    run = building.build_run(tiny(f"gradient={{use: '{tmp_path / 'agreement.py'}:Agreement'}}"), Registry(), tmp_path, None)
    taken: list[torch.Tensor] = []
    combined: list[torch.Tensor] = []
    reduce, step = run.trainer.strategy.reduce, run.trainer.strategy.stepper.step

    def spy_reduce(order) -> None:
        reduce(order)
        taken.extend(gradient.whole.clone() for gradient in order)

    def spy_step() -> None:
        parts = [p for members in run.groups.values() for _, p in members]
        combined.append(torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parts]))
        step()

    run.trainer.strategy.reduce, run.trainer.strategy.stepper.step = spy_reduce, spy_step  # type: ignore[method-assign]
    run.trainer.strategy.clip_norm = math.inf
    values = run.trainer.update(0)
    g1, g2 = taken[0], 0.5 * taken[1]
    wanted = torch.where(g1 * g2 >= 0, g1 + g2, 0.0)
    assert torch.equal(combined[0], wanted)
    assert 0 < float((wanted != g1 + g2).float().mean()) < 1
    assert values["surgery/kept"] == pytest.approx(
        float(wanted.double() @ (g1 + g2).double() / (g1 + g2).double().square().sum()), rel=1e-5
    )
    assert not any(name.startswith("surgery/weight") for name in values)


def test_graddrop_keeps_one_sign_of_each_number() -> None:
    op, generator = GradDrop(), torch.Generator().manual_seed(0)
    gradients = torch.tensor([[3.0, 1.0, 0.0, 2.0], [-1.0, 1.0, 0.0, -2.0]]).repeat(1, 5000)  # [2, 20000]
    scales = torch.tensor([1.0, 1.0], dtype=torch.float64)
    update = op.combine(gradients, scales, generator).view(-1, 4)  # [5000, 4]
    assert set(update[:, 0].tolist()) == {3.0, -1.0}
    assert float((update[:, 0] == 3.0).float().mean()) == pytest.approx(0.75, abs=0.03)  # (1 + 2 / 4) / 2
    assert update[:, 1].unique().tolist() == [2.0]
    assert update[:, 2].unique().tolist() == [0.0]
    assert float((update[:, 3] == 2.0).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert torch.equal(GradDrop(leak=1.0).combine(gradients, scales, generator), gradients.sum(0))


def test_a_combination_of_another_shape_is_refused(tiny: Make, tmp_path: Path) -> None:
    run = building.build_run(tiny("gradient={use: graddrop}"), Registry(), tmp_path, None)
    run.trainer.surgery.op.combine = lambda gradients, scales, generator: gradients.sum()  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"GradDrop\.combine gave \[\] for gradients \[2, \d+\]: it must give \[\d+\]"):
        run.trainer.update(0)


@pytest.mark.parametrize("gradient", ["gradient={use: sum, by: task}", "gradient={use: graddrop}"])
def test_a_running_gradient_goes_with_neither(tiny: Make, tmp_path: Path, gradient: str) -> None:
    schedule = "schedule={use: every_n, main: loop1, other: loop2, n: 2}"
    with pytest.raises(UserError, match=r"schedule: keeping a loop's running gradient does not go with gradient\."):
        building.build_run(tiny(schedule, gradient), Registry(), tmp_path, None)


def test_gradients_by_task_sum_to_those_of_the_loops(tiny: Make, tmp_path: Path) -> None:
    found = {}
    for by in ("loop", "task"):
        run = building.build_run(tiny(*STILL, f"gradient={{use: sum, by: {by}}}"), Registry(), tmp_path / by, None)
        kept: dict[str, torch.Tensor] = {}
        step = run.trainer.surgery.step

        def spy(strategy, gradients, *rest, kept=kept, step=step) -> bool:
            kept |= {name: gradient.whole.clone() for name, gradient in gradients.items()}
            return step(strategy, gradients, *rest)

        run.trainer.surgery.step = spy  # type: ignore[method-assign]
        found[by] = (kept, run.trainer.update(0))
    loops, tasks = found["loop"][0], found["task"][0]
    assert list(loops) == ["loop1", "loop2"]
    assert list(tasks) == ["loop1/pseudo", "loop1/referring", "loop2/cycle"]
    torch.testing.assert_close(tasks["loop1/pseudo"] + tasks["loop1/referring"], loops["loop1"], rtol=1e-4, atol=1e-7)
    assert all(gradient.any() for gradient in tasks.values())
    values = found["task"][1]
    parts = values["task_loss/loop1/pseudo"] + values["task_loss/loop1/referring"]
    assert parts == pytest.approx(values["loop1/loss"], rel=1e-6)
    assert parts == pytest.approx(found["loop"][1]["loop1/loss"], rel=1e-6)
    assert "surgery/cosine/loop1/pseudo_loop1/referring" in values


def test_an_anchor_by_task_is_a_task(tiny: Make) -> None:
    run = go(tiny("gradient={use: pcgrad_orthogonal, anchor: loop1/pseudo, by: task}", "train.updates=1"))
    [line] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert line["surgery/weight/loop1/pseudo"] != 1.0


def test_all_of_it_is_the_same_on_two_processes(tiny: Make, balanced: str, tmp_path: Path) -> None:
    """One process and two make the same updates, drawn signs and weights of their own included."""
    cases = []
    for strategy, world in (("single", 1), ("ddp", 2)):
        out = tmp_path / f"{strategy}"
        out.mkdir()
        recipe = tiny(
            balanced,
            *STILL,
            "loops.loop1.tasks.pseudo.sampler.temperature={from: 2.0, to: 0.5, over: 2}",
            "gradient={use: graddrop, leak: 0.2, by: task, own_weights: surgery}",
            f"train={{updates: 4, batch_size: {2 // world}, accumulate: 1, clip_norm: 1.0}}",
            f"launch={{strategy: {strategy}, processes: {world}, device: cpu, timeout_s: {HANGS_S}}}",
        )
        shutil.copyfile(tmp_path / "balanced.py", out / "balanced.py")
        (out / "recipe.yaml").write_text(resolved_yaml(recipe, Registry(), beside=True))
        cases.append({"recipe": str(out / "recipe.yaml"), "updates": 2, "out": str(out)})
    carry_out(cases[0], Alone())
    on_ranks(2, cases[1:])
    one, two = (load_file(tmp_path / name / "update-000002" / "trained.safetensors") for name in ("single", "ddp"))
    assert any(name.startswith(GROUP) for name in one)
    apart = torch.cat([(one[name] - two[name]).abs().flatten() for name in one])
    # a draw that falls on the border is decided by the order of a sum; all ranks decide alike (carry_out compares them bit for bit)
    assert float((apart > 2e-5).float().mean()) < 1e-3
