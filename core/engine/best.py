"""Which evaluation during training was the best, where its checkpoint is, and whether training should end because no better one comes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from core.contracts import UserError
from core.engine.evaluation import strict, write_whole

FILE = "best.json"  # beside the checkpoints: {"update", "metric", "value"}
Metrics = Mapping[str, Mapping[str, float]]  # evaluator -> metric -> value


def best_update(folder: Path) -> int | None:
    """The update of the best checkpoint of ``folder``, a run's ``checkpoints``; None without one.

    Raises ``UserError`` for a file that cannot be read.
    """
    file = folder / FILE
    try:
        update = json.loads(file.read_text(encoding="utf-8"))["update"] if file.is_file() else None
        return None if update is None else int(update)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: cannot be read ({error!r}); remove it, and no checkpoint counts as the best one") from None


def named_best(path: Path) -> Path:
    """``RUN/checkpoints/best`` as the checkpoint that ``best.json`` names; any other path as it is. Raises ``UserError`` without one."""
    if path.name != "best" or path.parent.name != "checkpoints" or path.exists():
        return path
    update = best_update(path.parent)
    if update is None:
        raise UserError(
            f"{path}: the run has kept no best checkpoint; train with train.evaluate_every and checkpoint.best=EVALUATOR/METRIC"
        )
    return path.with_name(f"update-{update:06d}")


def _value(metrics: Metrics, name: str) -> float:
    """The value of ``name``, EVALUATOR/METRIC. Raises ``UserError`` where it is not among ``metrics``."""
    evaluator, _, metric = name.partition("/")
    if metric not in metrics.get(evaluator, {}):
        there = ", ".join(f"{evaluator}/{metric}" for evaluator, values in metrics.items() for metric in values)
        raise UserError(f"checkpoint.best: no evaluation gives {name!r}; there are {there}")
    return metrics[evaluator][metric]


@dataclass
class Watch:
    """All evaluations during training so far. Ranks that add the same numbers decide alike."""

    metric: str | None = None  # EVALUATOR/METRIC; None: nothing is the best
    highest: bool = True
    patience: int | None = None  # evaluations
    history: list[dict[str, Any]] = field(default_factory=list)  # {"update", "metrics"}, as JSON holds them
    update: int | None = None  # of the best evaluation
    value: float | None = None
    without: int = 0  # evaluations since then

    @classmethod
    def of(cls, values: Mapping[str, Any], state: Mapping[str, Any] | None = None) -> Watch:
        """From a recipe, and from ``state`` of a checkpoint. Where the recipe now asks for another metric, none is the best yet."""
        checkpoint, state = values["checkpoint"], state or {}
        watch = cls(checkpoint["best"], checkpoint["best_is"] == "highest", values["train"]["patience"], list(state.get("history", [])))
        if (state.get("metric"), state.get("highest")) == (watch.metric, watch.highest):
            watch.update, watch.value, watch.without = state["update"], state["value"], state["without"]
        return watch

    def state(self) -> dict[str, Any]:
        """For a checkpoint's ``state.json``."""
        return asdict(self)

    def check(self, metrics: Metrics) -> None:
        """Raises ``UserError`` where an evaluation that gave ``metrics`` does not give the watched one."""
        if self.metric is not None:
            _value(metrics, self.metric)

    def seen(self, update: int) -> bool:
        """Whether the evaluation after ``update`` updates has been made."""
        return bool(self.history) and self.history[-1]["update"] >= update

    def add(self, update: int, metrics: Metrics) -> bool:
        """Takes the evaluation after ``update`` updates; whether it is the best so far. NaN and infinities never are.

        Raises ``UserError`` where it does not give the metric.
        """
        value = None if self.metric is None else _value(metrics, self.metric)
        self.history.append({"update": update, "metrics": strict(metrics)})
        if value is None:
            return False
        if math.isfinite(value) and (self.value is None or (value > self.value if self.highest else value < self.value)):
            self.update, self.value, self.without = update, value, 0
            return True
        self.without += 1
        return False

    def ended(self) -> str | None:
        """Why training ends before its last update; None where it does not."""
        if self.patience is None or self.without < self.patience:
            return None
        better = "has not been a number" if self.value is None else f"has not been better than {self.value:.4g} (update {self.update})"
        update, times = self.history[-1]["update"], f"{self.without} evaluation{'s' * (self.without > 1)}"
        return f"after update {update}: {self.metric} {better} for {times}"

    def line(self) -> str:
        """The last evaluation in one line: the watched metric and the best one, or else the first metric of each evaluator."""
        last = self.history[-1]
        if self.metric is None:
            shown = "  ".join(
                f"{name}/{metric} {_number(metrics[metric])}" for name, metrics in last["metrics"].items() for metric in [*metrics][:1]
            )
            return f"update {last['update']}: {shown}"
        best = "none yet" if self.value is None else f"{_number(self.value)} at update {self.update}"
        return f"update {last['update']}: {self.metric} {_number(_value(last['metrics'], self.metric))} (best {best})"

    def write(self, folder: Path) -> None:
        """Makes ``best.json`` in ``folder`` that of the best evaluation, whose checkpoint is there; without any it stays as it is."""
        if self.update is None:
            return
        if (folder / f"update-{self.update:06d}").is_dir():
            write_whole(folder / FILE, json.dumps({"update": self.update, "metric": self.metric, "value": self.value}, indent=2) + "\n")
        else:  # it was removed by hand
            (folder / FILE).unlink(missing_ok=True)


def _number(value: float | None) -> str:
    return "NaN" if value is None else f"{value:.4g}"
