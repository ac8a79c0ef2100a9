"""What happens between updates where a recipe asks for it: evaluations, the best checkpoint, an early end, samples."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.contracts import Evaluation
from core.engine import checkpoint
from core.engine.best import Watch
from core.engine.building import Run
from core.engine.evaluation import Unfinished, evaluate_all, metric_values
from core.engine.progress import Progress
from core.engine.samples import check_samples, show_samples


class Between:
    """Of one run. All ranks call the same methods at the same updates; ``watch`` and ``newest`` are equal on all of them."""

    def __init__(self, built: Run, progress: Progress, last: Path | None) -> None:
        """``last``: the checkpoint from which the run goes on. Raises ``UserError``."""
        self.built, self.progress = built, progress
        self.exchange, self.train = built.trainer.strategy.exchange, built.recipe.values["train"]
        state = json.loads((last / "state.json").read_text(encoding="utf-8")) if last else {}
        self.watch = Watch.of(built.recipe.values, state.get("evaluations"))
        self.newest: tuple[int, dict[str, Evaluation]] = (-1, {})  # the update of the last evaluation here, and its results
        self.done = built.start  # updates
        check_samples(built)

    @property
    def checkpoints(self) -> Path:
        return self.built.folder / "checkpoints"

    def take_before(self, results: Mapping[str, Evaluation]) -> None:
        """The evaluation before training shows which metrics there are. Raises ``UserError`` where the watched one is missing."""
        if results:
            self.watch.check(metrics_of(results))

    def begin(self) -> None:
        """Where a run goes on: makes up for an evaluation that a signal cut short, and for a best checkpoint not yet marked as such."""
        update = self.built.start
        if update and self._due(update) and not self.watch.seen(update):
            values: dict[str, float] = {}
            self.evaluate(update, values)
            self.built.trackers.log(update, values)
            self.note(update)
        if update and self.exchange.main:
            self.watch.write(self.checkpoints)

    def _due(self, update: int) -> bool:
        every = self.train["evaluate_every"]
        return bool(every) and (update % every == 0 or update == self.train["updates"])

    def evaluate(self, update: int, values: dict[str, float]) -> bool:
        """Adds the metrics to ``values`` where an evaluation is due after ``update`` updates; whether it is the best so far.

        Where a signal asked for the run's end meanwhile there are none; they are made up for on resume.
        """
        self.done = update
        if not self._due(update):
            return False
        try:
            results = evaluate_all(self.built.model, self.built.evaluators, self.progress, self.exchange)
        except Unfinished:
            return False
        self.newest = update, results
        values |= {f"evaluation/{name}": value for name, value in metric_values(results).items()}
        return self.watch.add(update, metrics_of(results))

    def note(self, update: int) -> None:
        """Says what the evaluation after ``update`` updates found, if there was one."""
        if self.newest[0] == update:
            self.progress.note(self.watch.line())

    def mark_best(self) -> None:
        """The checkpoint just saved becomes the best one; the one before may go."""
        if self.exchange.main:
            self.watch.write(self.checkpoints)
            checkpoint.prune(self.checkpoints, self.built.recipe.values["checkpoint"]["keep"])

    def watch_batches(self, number: int) -> None:
        """Before update ``number`` (from 0): its micro-batches are kept where samples of them are to be shown."""
        every = self.train["samples_every"]
        self.built.trainer.batches = {} if every and (number + 1) % every == 0 and self.exchange.main else None

    def samples(self, number: int) -> None:
        """After update ``number`` (from 0): shows samples where they are due, on the main rank."""
        if self.built.trainer.batches is not None:
            with self.progress.phase("samples"):
                show_samples(self.built, number, self.built.trainer.batches)
            self.built.trainer.batches = None

    def after(self, evaluate: bool) -> dict[str, Evaluation]:
        """The evaluation at the end: the newest one if it was made there, otherwise, where ``evaluate`` asks for it, a new one."""
        if self.newest[0] == self.done:
            return self.newest[1]
        if evaluate:
            return evaluate_all(self.built.model, self.built.evaluators, self.progress, self.exchange)
        last: Mapping[str, Any] = self.watch.history[-1] if self.watch.history else {}
        metrics = last["metrics"] if last.get("update") == self.done else {}  # made before the run was resumed
        return {
            name: Evaluation({metric: math.nan if value is None else value for metric, value in values.items()})
            for name, values in metrics.items()
        }

    def summary(self) -> dict[str, str]:
        """For the result: why training ended early, and the best evaluation."""
        found, watch = {}, self.watch
        if why := watch.ended():
            found["stopped early"] = why
        if watch.value is not None:
            found["best"] = f"{watch.metric} {watch.value:.4g} after update {watch.update}, {self.checkpoints / 'best'}"
        return found


def metrics_of(results: Mapping[str, Evaluation]) -> dict[str, dict[str, float]]:
    """Evaluator -> metric -> value."""
    return {name: result.metrics for name, result in results.items()}
