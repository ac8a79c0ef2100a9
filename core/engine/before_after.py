"""The metrics before and after training in one table, and which changes are more than the choice of pictures would make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from core.contracts import Evaluation, Evaluator, LowestIsBest
from core.evaluation.difference import GoodWay, Verdict, paired_interval, verdict

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

    def verdict(self, good: GoodWay | None = None) -> Verdict:
        return "" if self.value is None or self.interval is None else verdict(self.value, *self.interval, good)

    @property
    def clear(self) -> bool:
        """Its interval leaves out 0."""
        return self.verdict() == "differs"


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
    return paired_interval(last.draws[metric], first.draws[metric])


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
    judged = [(one, one.verdict(_good(one.metric, evaluators.get(one.evaluator)))) for one in changes(before, after)]
    parts = [
        f"{spoken}: {', '.join(f'{one.evaluator}/{one.metric} {one.value:+.3f}' for one in which)}"
        for found, spoken in (("better", "better"), ("worse", "worse"), ("differs", "changed"))
        if (which := [one for one, said in judged if said == found])
    ]
    rest = sum(said == "open" for _, said in judged)
    parts += [f"{'the others' if parts else 'all'} ({rest}): the interval holds 0"] if rest else []
    return "; ".join(parts)


def _good(metric: str, evaluator: Evaluator | None) -> GoodWay | None:
    """None where the evaluator does not say which way is good."""
    if not isinstance(evaluator, LowestIsBest):
        return None
    return "lowest" if metric in evaluator.lowest_is_best else "highest"


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
