"""A run that uses no weights of its own, no moving values and no other kind of surgery trains as before there were any, bit for bit.

``former_update`` is the update as it was then: one gradient for each loop, one Gram matrix of all groups, the op's weights, one step.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from core.contracts import Gram
from core.engine import building
from core.engine.noise import RunNoise, derived_seed
from core.engine.parallel.gradients import Gradients
from core.engine.surgery_log import diagnostics
from core.engine.update import LoopSetup, Trainer, add_sums, means
from core.recipe import Recipe
from core.registry import Registry

Make = Callable[..., Recipe]
EVERY_N = "schedule={use: every_n, main: loop1, other: loop2, n: 2, decay: 0.9}"
TWICE = ("train.batch_size=2", "train.accumulate=2")  # two micro-batches of each loop in an update


def former_update(trainer: Trainer, number: int) -> dict[str, float]:
    values: dict[str, float] = {}
    gradients = {name: former_gradient(trainer, trainer.loops[name], number, values) for name in trainer.schedule.loops(number)}
    assert former_step(trainer, gradients, values)
    if trainer.teacher is not None:
        trainer.teacher.update()
    trainer.rate.step()
    values["optimizer/lr"] = float(trainer.rate.get_last_lr()[0])
    values["optimizer/skipped"] = 0.0
    return values


def former_gradient(trainer: Trainer, loop: LoopSetup, number: int, values: dict[str, float]) -> Gradients:
    micro_batches, noise = loop.feed.update(), RunNoise(trainer.seed, number)
    totals: dict[str, float] = defaultdict(float)
    sums: dict[str, float] = defaultdict(float)
    for micro in micro_batches:
        for task, batch in micro.parts:
            for term, count in loop.tasks[task].counts(trainer.model, batch, noise).items():
                totals[term] += count
    with trainer.strategy.gradient() as gradients:
        for i, micro in enumerate(micro_batches):
            torch.manual_seed(derived_seed(trainer.seed, number, loop.name, trainer.strategy.rank, i))
            for task, batch in micro.parts:
                with trainer.model.computing(True, trainer.precision):
                    terms = loop.tasks[task](trainer.model, trainer.teacher, batch.to(trainer.device), noise)
                loss = torch.stack([term.weight * term.total / max(totals[name], 1) for name, term in terms.terms.items()]).sum()
                trainer.strategy.backward(loss)
                add_sums(sums, f"{loop.name}/{task}", terms)
                sums[f"{loop.name}/loss"] += float(loss.detach())
    values |= means(sums)
    return gradients


def former_step(trainer: Trainer, gradients: dict[str, Gradients], values: dict[str, float]) -> bool:
    order, op, running = list(gradients.values()), trainer.surgery.op, trainer.surgery.running
    trainer.strategy.reduce(order)
    scales = {name: trainer.loops[name].weight for name in gradients}
    gram = former_gram(trainer, gradients, scales, values)
    seen = running.follow(gradients) if running else gradients
    if running and (mean := running.mean) in seen.values():
        main = running.loop
        gram = former_gram(trainer, seen, scales | {main: 0.0}, values)
        weights = op.weights(gram)
        own = dict(zip(seen, weights.unbind(1), strict=True))
        columns = [torch.full_like(own[main], scales[name]) if name == main else own[name] for name in gradients]
        norm = trainer.strategy.step(order, torch.stack([*columns, own[main]], 1), kept=[mean])
    else:
        weights = op.weights(gram)
        norm = trainer.strategy.step(order, weights)
    values |= diagnostics(gram, weights)
    values["optimizer/grad_norm"] = norm
    return math.isfinite(norm)


def former_gram(trainer: Trainer, gradients: dict[str, Gradients], scales: dict[str, float], values: dict[str, float]) -> Gram:
    order, per_parameter = list(gradients.values()), getattr(trainer.surgery.op, "per_parameter", False)
    return Gram(
        loops=tuple(gradients),
        groups=tuple(order[0].blocks(per_parameter)),
        values=trainer.strategy.gram(order, per_parameter),
        scales=torch.tensor([scales[name] for name in gradients], dtype=torch.float64),
        losses=torch.tensor([values.get(f"{name}/loss", 0.0) for name in gradients], dtype=torch.float64),
    )


@pytest.mark.parametrize(
    "overrides",
    [[], ["gradient={use: pcgrad_orthogonal, anchor: loop1, scope: parameter}"], [EVERY_N], ["gradient={use: uncertainty}"]],
    ids=["as shipped", "by parameter", "running gradient", "an op with state"],
)
def test_the_update_is_bit_for_bit_the_former_one(tiny: Make, tmp_path: Path, overrides: list[str]) -> None:
    runs = [building.build_run(tiny(*overrides, *TWICE), Registry(), tmp_path, None) for _ in range(2)]
    for number in range(3):
        now, then = runs[0].trainer.update(number), former_update(runs[1].trainer, number)
        assert {name: value for name, value in now.items() if not name.startswith("time")} == then
    for (name, mine), (_, other) in zip(*(run.model.network.named_parameters() for run in runs), strict=True):
        assert torch.equal(mine, other), name
    shadows = [run.teacher.state_dict() for run in runs]
    assert all(torch.equal(shadows[0][name], shadows[1][name]) for name in shadows[0])
