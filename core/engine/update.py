"""The update: each loop's gradient, surgery on their Gram matrix, one step. The whole method in one screen."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from core.contracts import GradientOp, Gram, Loop, LossTerms, Model, PerParameter, Precision, Schedule, Teacher, UserError
from core.engine.feed import Feed, MicroBatch
from core.engine.noise import RunNoise, derived_seed
from core.engine.parallel.gradients import Gradients
from core.engine.parallel.strategy import Strategy
from core.engine.running_gradient import RunningGradient
from core.engine.surgery_log import diagnostics


@dataclass
class LoopSetup:
    """One loop of the recipe: its tasks, its weight in the sum and where its samples come from."""

    name: str
    weight: float
    tasks: Mapping[str, Loop]
    feed: Feed


@dataclass(frozen=True)
class Seen:
    """The samples of one backward pass on this rank, and whether their loss was finite."""

    task: str  # loop/task
    ids: list[str]
    finite: bool


@dataclass
class Trainer:
    """Everything an update needs. Its state is in the strategy's parameters and optimizer, the teacher and the op."""

    model: Model
    loops: Mapping[str, LoopSetup]
    teacher: Teacher | None
    op: GradientOp
    schedule: Schedule
    strategy: Strategy
    rate: torch.optim.lr_scheduler.LRScheduler
    seed: int
    device: str
    precision: Precision
    folder: Path
    max_bad_updates: int = 0
    skipped: int = 0  # updates so far whose loss or gradient was not finite
    running: RunningGradient | None = None
    batches: dict[str, list[MicroBatch]] | None = None  # loop -> what it was given in this update, where someone wants to look at it
    _seen: list[Seen] = field(default_factory=list)

    def update(self, number: int) -> dict[str, float]:
        """Runs update ``number`` (from 0) and returns what is to be logged.

        NaN or Inf in a loss or gradient changes nothing but the learning rate's place, and is counted: past
        ``max_bad_updates`` it raises ``UserError``. All ranks decide alike, on exchanged numbers.
        """
        started = time.perf_counter()
        self._seen.clear()
        values: dict[str, float] = {}
        gradients = {name: self._gradient(self.loops[name], number, values) for name in self.schedule.loops(number)}
        wrong = next((f"the loss of {name}" for name in gradients if not math.isfinite(values[f"{name}/loss"])), None)
        if wrong is None and not self._step(gradients, values):
            wrong = "the gradient"
        if wrong:
            self.strategy.drop(list(gradients.values()))
            self._skip(f"{wrong} in update {number}", number)
            advance(self.rate, 1)
        else:
            if self.teacher is not None:
                self.teacher.update()
            self.rate.step()
        values["optimizer/lr"] = float(self.rate.get_last_lr()[0])
        values["optimizer/skipped"] = float(self.skipped)
        values["time/update_s"] = time.perf_counter() - started
        return values

    def _step(self, gradients: Mapping[str, Gradients], values: dict[str, float]) -> bool:
        """Surgery and the optimizer's step; False, with nothing changed, where the gradient is not finite."""
        order = list(gradients.values())
        self.strategy.reduce(order)
        scales = {name: self.loops[name].weight for name in gradients}
        gram = self._gram(gradients, scales, values)
        if not bool(gram.values.isfinite().all()):  # before the op, whose state would keep it
            return False
        seen = self.running.follow(gradients) if self.running else gradients
        if self.running and (mean := self.running.mean) in seen.values():
            main = self.running.loop
            gram = self._gram(seen, scales | {main: 0.0}, values)
            weights = self.op.weights(gram)  # [P, n], of the mean and the others
            own = dict(zip(seen, weights.unbind(1), strict=True))
            columns = [torch.full_like(own[main], scales[name]) if name == main else own[name] for name in gradients]
            norm = self.strategy.step(order, torch.stack([*columns, own[main]], 1), kept=[mean])
        else:
            weights = self.op.weights(gram)  # [P, n]
            norm = self.strategy.step(order, weights)
        values |= diagnostics(gram, weights)
        values["optimizer/grad_norm"] = norm
        return math.isfinite(norm)

    def _gram(self, gradients: Mapping[str, Gradients], scales: Mapping[str, float], values: Mapping[str, float]) -> Gram:
        order, per_parameter = list(gradients.values()), isinstance(self.op, PerParameter) and self.op.per_parameter
        return Gram(
            loops=tuple(gradients),
            groups=tuple(order[0].blocks(per_parameter)),
            values=self.strategy.gram(order, per_parameter),
            scales=torch.tensor([scales[name] for name in gradients], dtype=torch.float64),
            losses=torch.tensor([values.get(f"{name}/loss", 0.0) for name in gradients], dtype=torch.float64),
        )

    def _gradient(self, loop: LoopSetup, number: int, values: dict[str, float]) -> Gradients:
        """This rank's part of the accumulated gradient of one loop; losses and metrics are added to ``values``."""
        micro_batches, noise = loop.feed.update(), RunNoise(self.seed, number)
        if self.batches is not None:
            self.batches[loop.name] = micro_batches
        totals: dict[str, float] = defaultdict(float)  # loss term -> items over the whole update, all tasks and ranks
        sums: dict[str, float] = defaultdict(float)
        for micro in micro_batches:
            for draw in micro.bad:
                sums[f"bad/{draw.source}/{draw.reason}"] += 1
            for task, batch in micro.parts:
                for term, count in loop.tasks[task].counts(self.model, batch, noise).items():
                    totals[term] += count
        totals = self.strategy.total(totals)
        with self.strategy.gradient() as gradients:
            for i, micro in enumerate(micro_batches):
                # dropout is the only draw that is not derived from a sample: seed it for this micro-batch
                torch.manual_seed(derived_seed(self.seed, number, loop.name, self.strategy.rank, i))
                for task, batch in micro.parts:
                    with self.model.computing(True, self.precision):
                        terms = loop.tasks[task](self.model, self.teacher, batch.to(self.device), noise)
                    loss = torch.stack([term.weight * term.total / max(totals[name], 1) for name, term in terms.terms.items()]).sum()
                    self.strategy.backward(loss)  # also of NaN: the ranks' backward passes may wait for each other
                    value = float(loss.detach())
                    self._seen.append(Seen(f"{loop.name}/{task}", batch.ids, math.isfinite(value)))
                    add_sums(sums, f"{loop.name}/{task}", terms)
                    sums[f"{loop.name}/loss"] += value
        values |= means(self.strategy.total(sums))
        return gradients

    def _skip(self, what: str, number: int) -> None:
        """Counts an update that was not finite, and saves the ids of the samples it may come from."""
        self.skipped += 1
        bad = [seen for seen in self._seen if not seen.finite]
        samples: dict[str, list[str]] = defaultdict(list)
        # a gradient can fail where every loss is finite: then any sample may be the cause
        for seen in bad or (self._seen if what.startswith("the gradient") else []):
            samples[seen.task] += seen.ids
        file = self.folder / f"not_finite-{number:06d}{f'.rank{self.strategy.rank}' if self.strategy.rank else ''}.json"
        if samples:
            report = {"what": what, "update": number, "samples": samples}
            file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        if self.skipped > self.max_bad_updates:
            known = f"the batch's sample ids are in {file}" if samples else "the rank with these samples has saved their ids"
            count = f" ({self.skipped} such updates so far)" if self.skipped > 1 else ""
            raise UserError(
                f"{what} is NaN or Inf{count}; {known}. Lower optimizer.lr, look at these samples, or let train.max_bad_updates skip some"
            )


def advance(rate: torch.optim.lr_scheduler.LRScheduler, updates: int) -> None:
    """Moves the learning rate on by updates whose optimizer steps are not made here: skipped ones, or those before a resume."""
    with warnings.catch_warnings():
        # torch takes a rate that moves before the optimizer's first step for a mistake in their order
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        for _ in range(updates):
            rate.step()


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
