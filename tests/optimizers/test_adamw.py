"""AdamW and its learning-rate schedules."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from core.contracts import OptimizerFactory, UserError
from plugins.optimizers.adamw import AdamW


def groups():
    source = torch.Generator().manual_seed(0)
    return {
        group: [(name, nn.Parameter(torch.randn(*shape, generator=source))) for name, shape in named.items()]
        for group, named in {"projector": {"weight": (4, 3), "bias": (4,)}, "lora": {"a": (2, 4)}}.items()
    }


def rates(factory: AdamW, updates: int) -> list[float]:
    optimizer, schedule = factory.build(groups(), updates)
    seen = []
    for _ in range(updates):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def run(optimizer, schedule, trained, first: int, last: int) -> None:
    for update in range(first, last):
        for _, parameter in (named for group in trained.values() for named in group):
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(update))
        optimizer.step()
        schedule.step()


def test_groups_are_named_and_scaled():
    optimizer, _ = AdamW(lr=1e-3, group_lr={"lora": 0.1}).build(groups(), 10)
    assert [(g["name"], g["lr"], g["weight_decay"], g["betas"], len(g["params"])) for g in optimizer.param_groups] == [
        ("projector", pytest.approx(1e-3), 0.05, (0.9, 0.999), 2),
        ("lora", pytest.approx(1e-4), 0.05, (0.9, 0.999), 1),
    ]
    assert isinstance(AdamW(lr=1.0), OptimizerFactory)


def test_decay_reaches_every_parameter():
    trained = groups()
    before = trained["projector"][1][1].detach().clone()
    optimizer, _ = AdamW(lr=0.1, weight_decay=0.5).build(trained, 1)
    for _, parameter in (named for group in trained.values() for named in group):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(trained["projector"][1][1].detach(), before * (1 - 0.1 * 0.5))


def test_constant_and_its_warmup():
    assert rates(AdamW(lr=0.1), 5) == [0.1] * 5
    seen = rates(AdamW(lr=0.1, warmup=0.3), 10)
    assert seen[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert seen[4:] == pytest.approx([0.1] * 6)


def test_cosine_goes_down_to_almost_zero():
    seen = rates(AdamW(lr=0.1, schedule="cosine", warmup=0.1), 100)
    assert seen[10] == pytest.approx(0.1)
    assert seen[55] == pytest.approx(0.05)
    assert 0 < seen[-1] < 1e-4
    assert seen[10:] == sorted(seen[10:], reverse=True)


def test_one_cycle_rises_for_30_percent():
    seen = rates(AdamW(lr=0.1, schedule="one_cycle"), 100)
    assert seen[0] == pytest.approx(0.1 / 25)
    assert seen.index(max(seen)) == 30
    assert max(seen) == pytest.approx(0.1)
    assert seen[:31] == sorted(seen[:31])
    assert 0 < seen[-1] < 1e-4
    assert rates(AdamW(lr=0.1, schedule="one_cycle", warmup=0.1), 100).index(max(seen)) == 10


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_decay_keeps_the_rate_until_the_last_updates(schedule):
    seen = rates(AdamW(lr=0.1, schedule=schedule, warmup=0.1, decay=0.2), 100)
    assert seen[10:81] == pytest.approx([0.1] * 71)
    assert seen[90] == pytest.approx(0.05)
    assert 0 < seen[-1] < 1e-3
    assert rates(AdamW(lr=0.1, schedule=schedule, warmup=0.3, decay=1.0), 50) == rates(AdamW(lr=0.1, schedule=schedule, warmup=0.3), 50)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
@pytest.mark.parametrize("updates", [1, 2])
def test_a_tiny_run_has_positive_rates(schedule, updates):
    assert min(rates(AdamW(lr=0.1, schedule=schedule, warmup=0.9), updates)) > 0


def test_resumed_equals_uninterrupted_bit_for_bit():
    factory = AdamW(lr=1e-2, schedule="one_cycle", group_lr={"lora": 3.0})
    whole = groups()
    run(*factory.build(whole, 12), whole, 0, 12)

    half = groups()
    optimizer, schedule = factory.build(half, 12)
    run(optimizer, schedule, half, 0, 5)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    optimizer, schedule = factory.build(half, 12)
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    run(optimizer, schedule, half, 5, 12)
    for group in whole:
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(whole[group], half[group], strict=True))


def test_unknown_group_is_named():
    with pytest.raises(UserError, match="names lorra, but the parameter groups are projector, lora"):
        AdamW(lr=0.1, group_lr={"lorra": 1.0}).build(groups(), 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", 0.0),
        ("betas", [0.9]),
        ("betas", [0.9, 1.0]),
        ("weight_decay", -1.0),
        ("eps", 0.0),
        ("schedule", "linear"),
        ("warmup", 1.0),
        ("decay", 0.0),
        ("decay", 0.5),  # with the constant rate
        ("group_lr", {"lora": -1.0}),
    ],
)
def test_arguments_are_checked(name, value):
    with pytest.raises(ValueError, match=f"^{name}.* must"):
        AdamW(**{"lr": 0.1, name: value})
