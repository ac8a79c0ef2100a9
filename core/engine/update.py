"""The update: each loop's gradient, surgery on their Gram matrix, one step. The whole method in one screen."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

from core.contracts import GradientOp, Gram, Loop, LossTerms, Model, Schedule, Teacher, UserError
from core.engine.feed import Feed
from core.engine.gradients import Gradients
from core.engine.noise import RunNoise, derived_seed
from core.engine.strategy import Single


@dataclass
class LoopSetup:
    """One loop of the recipe: its tasks, its weight in the sum and where its samples come from."""

    name: str
    weight: float
    tasks: Mapping[str, Loop]
    feed: Feed


@dataclass
class Trainer:
    """Everything an update needs. Its state is in the strategy's parameters and optimizer, the teacher and the op."""

    model: Model
    loops: Mapping[str, LoopSetup]
    teacher: Teacher | None
    op: GradientOp
    schedule: Schedule
    strategy: Single
    rate: torch.optim.lr_scheduler.LRScheduler
    seed: int
    device: str
    precision: str
    folder: Path
    clock: Mapping[str, float] = field(default_factory=dict)

    def update(self, number: int) -> dict[str, float]:
        """Runs update ``number`` (from 0) and returns what is to be logged. Raises ``UserError`` for NaN or Inf."""
        started = time.perf_counter()
        values: dict[str, float] = {}
        gradients: dict[str, Gradients] = {}
        for name in self.schedule.loops(number):
            gradients[name] = self._gradient(self.loops[name], number, values)
        order = list(gradients.values())
        self.strategy.reduce(order)
        gram = Gram(
            loops=tuple(gradients),
            groups=tuple(order[0].flat),
            values=self.strategy.gram(order),
            scales=torch.tensor([self.loops[name].weight for name in gradients], dtype=torch.float64),
        )
        weights = self.op.weights(gram)  # [P, n]
        norm = self.strategy.step(order, weights)
        self._finite(norm, f"the gradient of update {number}", {})
        self.rate.step()
        if self.teacher is not None:
            self.teacher.update()
        values |= surgery(gram, weights)
        values["optimizer/grad_norm"] = norm
        values["optimizer/lr"] = float(self.rate.get_last_lr()[0])
        values["time/update_s"] = time.perf_counter() - started
        return values

    def _gradient(self, loop: LoopSetup, number: int, values: dict[str, float]) -> Gradients:
        """This rank's part of the accumulated gradient of one loop; losses and metrics are added to ``values``."""
        micro_batches, noise = loop.feed.update(), RunNoise(self.seed, number)
        totals: dict[str, float] = defaultdict(float)  # loss term -> items over the whole update, all tasks and ranks
        for micro in micro_batches:
            for task, batch in micro.parts:
                for term, count in loop.tasks[task].counts(self.model, batch, noise).items():
                    totals[term] += count
        totals = self.strategy.total(totals)
        sums: dict[str, float] = defaultdict(float)
        with self.strategy.gradient() as gradients:
            for i, micro in enumerate(micro_batches):
                # dropout is the only draw that is not derived from a sample: seed it for this micro-batch
                torch.manual_seed(derived_seed(self.seed, number, loop.name, self.strategy.rank, i))
                for task, batch in micro.parts:
                    with torch.autocast(self.device, torch.bfloat16) if self.precision == "bf16" else nullcontext():
                        terms = loop.tasks[task](self.model, self.teacher, batch.to(self.device), noise)
                    loss = torch.stack([term.weight * term.total / max(totals[name], 1) for name, term in terms.terms.items()]).sum()
                    self._finite(float(loss.detach()), f"the loss of update {number}, {loop.name}/{task}", micro.ids)
                    self.strategy.backward(loss)
                    add_sums(sums, f"{loop.name}/{task}", terms)
                    sums[f"{loop.name}/loss"] += float(loss.detach())
        values |= means(self.strategy.total(sums))
        return gradients

    def _finite(self, value: float, what: str, ids: dict[str, list[str]]) -> None:
        if math.isfinite(value):
            return
        by_rank = f".rank{self.strategy.rank}" if self.strategy.rank else ""
        file = self.folder / f"not_finite{by_rank}.json"
        file.write_text(json.dumps({"what": what, "value": str(value), "samples": ids}, indent=2) + "\n", encoding="utf-8")
        raise UserError(f"{what} is {value}; the batch's sample ids are in {file}. Lower optimizer.lr, or look at these samples")


def add_sums(sums: dict[str, float], prefix: str, terms: LossTerms) -> None:
    """Adds (sum, count) pairs of losses and metrics under ``prefix/name``."""
    for name, term in terms.terms.items():
        sums[f"{prefix}/{name}"] += float(term.total.detach())
        sums[f"{prefix}/{name}#"] += term.count
    for name, (total, count) in terms.metrics.items():
        sums[f"{prefix}/{name}"] += total
        sums[f"{prefix}/{name}#"] += count


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """Divides each sum by its count ``name#``; sums without a count stay."""
    return {
        name: total / sums[name + "#"] if sums.get(name + "#") else total
        for name, total in sums.items()
        if not name.endswith("#") and sums.get(name + "#", 1)
    }


def surgery(gram: Gram, weights: torch.Tensor) -> dict[str, float]:
    """Diagnostics of the update: norms, cosine and conflict of the loops' gradients, over all and by group."""
    values: dict[str, float] = {}
    whole = gram.values.sum(0)  # [n, n]
    for i, name in enumerate(gram.loops):
        values[f"surgery/norm/{name}"] = math.sqrt(max(float(whole[i, i]), 0.0))
        values[f"surgery/weight/{name}"] = float(weights[:, i].mean())
        for j in range(i):
            pair = f"{gram.loops[j]}_{name}"
            values[f"surgery/cosine/{pair}"] = cosine(whole, i, j)
            values |= {f"surgery/cosine/{pair}/{group}": cosine(gram.values[p], i, j) for p, group in enumerate(gram.groups)}
    return values


def cosine(gram: torch.Tensor, i: int, j: int) -> float:
    """Cosine of two gradients from their Gram matrix [n, n]; 0 where one of them is zero."""
    scale = math.sqrt(max(float(gram[i, i] * gram[j, j]), 0.0))
    return float(gram[i, j]) / scale if scale else 0.0
