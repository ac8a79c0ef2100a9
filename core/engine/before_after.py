"""The metrics before and after training in one table, and which changes are more than the choice of pictures would make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from core.contracts import Evaluation, Evaluator, LowestIsBest
from core.evaluation.intervals import interval

HEADER = ("evaluator", "metric", "before", "after", "change", "95 %")


@dataclass(frozen=True)
class Change:
    """One metric's. A side that was not measured is None."""

    evaluator: str
    metric: str
    before: float | None
    after: float | None
    interval: tuple[float, float] | None  # of the difference, both measured on the same pictures

    @property
    def value(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before

    @property
    def clear(self) -> bool:
        """Its interval leaves out 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def changes(before: Mapping[str, Evaluation], after: Mapping[str, Evaluation]) -> list[Change]:
    found = []
    for name in dict.fromkeys([*before, *after]):
        first, last = before.get(name, Evaluation({})), after.get(name, Evaluation({}))
        for metric in dict.fromkeys([*first.metrics, *last.metrics]):
            found.append(Change(name, metric, first.metrics.get(metric), last.metrics.get(metric), _paired(first, last, metric)))
    return found


def _paired(first: Evaluation, last: Evaluation, metric: str) -> tuple[float, float] | None:
    """The draws of two evaluations of the same items chose the same units, so that they can be subtracted."""
    if not first.asked or first.asked != last.asked or metric not in first.draws or metric not in last.draws:
        return None
    return interval(np.array(last.draws[metric], dtype=np.float64) - np.array(first.draws[metric], dtype=np.float64))  # None becomes NaN


def _cells(change: Change) -> tuple[str, ...]:
    def shown(value: float | None, sign: str = "") -> str:
        if value is None:
            return "–"
        return f"{value:{sign}.0f}" if change.metric.startswith("n_") else f"{value:{sign}.4f}"

    between = "" if change.interval is None else f"{change.interval[0]:+.3f} to {change.interval[1]:+.3f}"
    return change.evaluator, change.metric, shown(change.before), shown(change.after), shown(change.value, "+"), between


def before_after_table(before: Mapping[str, Evaluation], after: Mapping[str, Evaluation], console: Console | None = None) -> str:
    """The metrics before and after as Markdown; also printed as a table where a ``console`` is given.

    A change whose interval leaves out 0 is in bold type.
    """
    lines = ["| " + " | ".join(HEADER) + " |", "|---|---|---:|---:|---:|---|"]
    table = Table(*HEADER[:2])
    for column in HEADER[2:]:
        table.add_column(column, justify="right", no_wrap=True)
    for change in changes(before, after):
        *start, value, between = _cells(change)
        lines.append("| " + " | ".join([*start, f"**{value}**" if change.clear else value, between]) + " |")
        table.add_row(*start, value, between, style="bold" if change.clear else None)
    if console:
        console.print(table)
    return "\n".join(lines) + "\n"


def seen(before: Mapping[str, Evaluation], after: Mapping[str, Evaluation], evaluators: Mapping[str, Evaluator]) -> str:
    """One sentence: what became better, what worse, and of how many metrics neither can be said. Empty where nothing has an interval."""
    judged = [change for change in changes(before, after) if change.interval is not None]
    if not judged:
        return ""
    parts = [
        f"{verdict}: {', '.join(f'{one.evaluator}/{one.metric} {one.value:+.3f}' for one in which)}"
        for verdict in ("better", "worse", "changed")
        if (which := [one for one in judged if one.clear and _verdict(one, evaluators.get(one.evaluator)) == verdict])
    ]
    rest = sum(not change.clear for change in judged)
    parts += [f"of {'the other ' if parts else ''}{rest} metrics the interval holds 0"] if rest else []
    return "; ".join(parts)


def _verdict(change: Change, evaluator: Evaluator | None) -> str:
    """``better``, ``worse``, or ``changed`` where the evaluator does not say which way is good."""
    if not isinstance(evaluator, LowestIsBest) or change.interval is None:
        return "changed"
    return "better" if (change.interval[1] < 0) == (change.metric in evaluator.lowest_is_best) else "worse"


def to_json(before: Mapping[str, Evaluation], after: Mapping[str, Evaluation]) -> dict[str, dict[str, Sequence[float]]]:
    """evaluator -> metric -> the ends of the interval of its change."""
    found: dict[str, dict[str, Sequence[float]]] = {}
    for change in changes(before, after):
        if change.interval is not None:
            found.setdefault(change.evaluator, {})[change.metric] = list(change.interval)
    return found


def all_draws(results: Mapping[str, Evaluation]) -> Iterator[tuple[str, dict[str, object]]]:
    """What ``before_draws.json`` of a run folder holds of each evaluator."""
    for name, result in results.items():
        yield name, {"asked": result.asked, "draws": dict(result.draws)}
