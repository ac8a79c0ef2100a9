"""The update: the gradients of all loops, surgery on them, one step. The whole method in one screen."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from core.contracts import Loop, LossTerms, Model, Precision, RegionBatch, Schedule, Teacher, UserError
from core.engine.feed import Feed, MicroBatch
from core.engine.moving import MovingValue, move
from core.engine.noise import RunNoise, derived_seed
from core.engine.parallel.gradients import Gradients
from core.engine.parallel.strategy import Strategy
from core.engine.reach import UNREACHED
from core.engine.surgery import Surgery, loss_key
from core.engine.teaching import Together


@dataclass
class LoopSetup:
    """One loop of the recipe: its tasks, its weight in the sum and where its samples come from."""

    name: str
    weight: float
    tasks: Mapping[str, Loop]
    feed: Feed

    def gradients(self, by_task: bool) -> dict[str, set[str]]:
        """The names of its gradients, each with the tasks whose losses it is of."""
        return {f"{self.name}/{task}": {task} for task in self.tasks} if by_task else {self.name: set(self.tasks)}


@dataclass(frozen=True)
class Seen:
    """The samples of one backward pass on this rank, and whether their loss was finite."""

    task: str  # loop/task
    ids: list[str]
    finite: bool


@dataclass
class Trainer:
    """Everything an update needs. Its state is in the strategy's parameters and optimizer, the teacher and the surgery."""

    model: Model
    loops: Mapping[str, LoopSetup]
    teacher: Teacher | None
    surgery: Surgery
    schedule: Schedule
    strategy: Strategy
    rate: torch.optim.lr_scheduler.LRScheduler
    seed: int
    device: str
    precision: Precision
    folder: Path
    max_bad_updates: int = 0
    skipped: int = 0  # updates so far whose loss or gradient was not finite
    by_task: bool = False  # whether each task of a loop has a gradient of its own
    moving: Sequence[MovingValue] = ()
    terms: dict[str, None] = field(default_factory=dict)  # LOOP/TASK/TERM of every loss term so far, in order
    batches: dict[str, list[MicroBatch]] | None = None  # loop -> what it was given in this update, where someone wants to look at it
    _seen: list[Seen] = field(default_factory=list)

    def update(self, number: int) -> dict[str, float]:
        """Runs update ``number`` (from 0) and returns what is to be logged.

        NaN or Inf in a loss or gradient changes nothing but the learning rate's place, and is counted: past
        ``max_bad_updates`` it raises ``UserError``. All ranks decide alike, on exchanged numbers.
        """
        started = time.perf_counter()
        self._seen.clear()
        values = move(self.moving, number)
        gradients: dict[str, Gradients] = {}
        scales: dict[str, float] = {}
        for loop in (self.loops[name] for name in self.schedule.loops(number)):
            found = self._gradients(loop, number, values)
            gradients |= found
            scales |= dict.fromkeys(found, loop.weight)
        wrong = next((f"the loss of {name}" for name in gradients if not math.isfinite(values[loss_key(name)])), None)
        if wrong is None and not self.surgery.step(self.strategy, gradients, scales, number, values):
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

    def _gradients(self, loop: LoopSetup, number: int, values: dict[str, float]) -> dict[str, Gradients]:
        """This rank's part of the accumulated gradient of one loop, or of each of its tasks; losses and metrics go to ``values``."""
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
                    self.terms.setdefault(f"{loop.name}/{task}/{term}")
        totals = self.strategy.total(totals)
        gradients: dict[str, Gradients] = {}
        for name, tasks in loop.gradients(self.by_task).items():
            with self.strategy.gradient() as gradients[name]:
                taught = self._taught(tasks, micro_batches)
                for i, micro in enumerate(micro_batches):
                    # dropout is the only draw that is not derived from a sample: seed it for this micro-batch
                    torch.manual_seed(derived_seed(self.seed, number, name, self.strategy.rank, i))
                    for task, batch in (part for part in micro.parts if part[0] in tasks):
                        given = batch.to(self.device)
                        with self.model.computing(True, self.precision):
                            terms = loop.tasks[task](self.model, taught(task, i, given), given, noise)
                        parts = [term.weight * term.total / max(totals[key], 1) for key, term in terms.terms.items()]
                        loss = torch.stack(parts).sum()
                        if not loss.requires_grad:
                            raise UserError(f"{loop.name}/{task}: {UNREACHED}")
                        self.strategy.backward(loss)  # also of NaN: the ranks' backward passes may wait for each other
                        value = float(loss.detach())
                        self._seen.append(Seen(f"{loop.name}/{task}", batch.ids, math.isfinite(value)))
                        add_sums(sums, f"{loop.name}/{task}", terms)
                        for key in {loss_key(loop.name), loss_key(name)}:
                            sums[key] += value
        values |= means(self.strategy.total(sums))
        for name in gradients:  # where no rank had a sample of it
            values.setdefault(loss_key(name), 0.0)
        return gradients

    def _taught(self, tasks: set[str], micro_batches: Sequence[MicroBatch]) -> Callable[[str, int, RegionBatch], Teacher | None]:
        """The teacher as the task sees it that is given its part of a micro-batch on the device."""
        places = {task: [i for i, micro in enumerate(micro_batches) if any(name == task for name, _ in micro.parts)] for task in tasks}
        together = {
            task: Together(self.teacher, self.model, [dict(micro_batches[i].parts)[task] for i in found], self.device)
            for task, found in places.items()
            if self.teacher is not None
        }
        return lambda task, i, batch: together[task].of(places[task].index(i), batch) if task in together else None

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
