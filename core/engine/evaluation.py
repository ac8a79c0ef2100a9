"""Evaluators at work, in a run and in ``core.evaluate``, and what a run says of it: a table for people, JSON for programs."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from core.contracts import BadSample, Evaluation, Evaluator, Item, Model, ShowsPictures, UserError, WholeMetrics
from core.engine.launch import stopping
from core.engine.progress import Progress
from core.engine.undisturbed import undisturbed

if TYPE_CHECKING:
    from core.engine.parallel.exchange import Exchange

SHOWN = 12  # pictures of a run's sheet, of each evaluator


class Unfinished(Exception):
    """A signal asked the run to stop while the named evaluator measured: there is no result."""


def measured(evaluator: Evaluator, model: Model, unit: int) -> list[Item]:
    """The items of one unit, with its number."""
    try:
        items = evaluator.measure(model, unit)
    except BadSample as error:
        items = [{"id": error.sample, "bad": error.reason, "detail": error.detail}]
    return [{"unit": unit, **item} for item in items]


def usable(items: Sequence[Item], name: str) -> list[Item]:
    """The items that have a result. Raises ``UserError`` where none has."""
    good = [item for item in items if "bad" not in item]
    if not good:
        why = bad_reasons(items) or "its data set is empty"
        raise UserError(f"evaluator {name}: nothing could be measured ({why}); check its data set's paths and split")
    return good


def bad_reasons(items: Sequence[Item]) -> str:
    """``2 x unreadable picture, e.g. val/17``: a count and an example of each reason; empty where no item is bad."""
    bad = [item for item in items if "bad" in item]
    example = {item["bad"]: f"{item['id']} ({item['detail']})" if item.get("detail") else item["id"] for item in reversed(bad)}
    return "; ".join(f"{count} x {reason}, e.g. {example[reason]}" for reason, count in Counter(item["bad"] for item in bad).most_common())


def scored(evaluator: Evaluator, items: Sequence[Item], tally: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The metrics of all ``items`` together, of which ``tally`` is the tally of the usable ones; and ``n_bad``."""
    good = [item for item in items if "bad" not in item]
    sums = {key: np.asarray(values, dtype=np.float64).sum(keepdims=True) for key, values in tally.items()}  # [1] each
    metrics = {key: float(value[0]) for key, value in evaluator.metrics(sums).items()}
    if isinstance(evaluator, WholeMetrics):
        metrics |= evaluator.whole(good)
    return metrics | {"n_bad": float(len(items) - len(good))}


@undisturbed()
def evaluate(name: str, evaluator: Evaluator, model: Model, progress: Progress, exchange: Exchange | None = None) -> Evaluation:
    """One evaluator's result, equal on all ranks of ``exchange``, which share the units; without it this process measures alone.

    Pictures, and the warning of bad items, are the main rank's only. Raises ``UserError`` where nothing can be measured, and
    ``Unfinished`` where a signal asked a rank to stop.
    """
    exchange = exchange or _alone()
    label = f"evaluating {name}"
    with exchange.sharing(label), model.computing(training=False):
        share = _share(evaluator, model, progress, label, exchange)
    shares = exchange.gather([share, stopping.asked()])
    if any(asked for _, asked in shares):
        raise Unfinished(name)
    items = sorted(
        (item for share, _ in shares for item in share), key=lambda item: item["unit"]
    )  # stable: a unit's items keep their order
    metrics = exchange.from_main(lambda: scored(evaluator, items, evaluator.tally(usable(items, name))))
    if not exchange.main:
        return Evaluation(metrics)
    good = usable(items, name)
    if len(good) < len(items):
        warnings.warn(f"{len(items) - len(good)} of {len(items)} items of {name} were not used: {bad_reasons(items)}.", stacklevel=4)
    shown = good[:: math.ceil(len(good) / SHOWN)]
    return Evaluation(metrics, [evaluator.picture(item) for item in shown] if isinstance(evaluator, ShowsPictures) else [])


def _share(evaluator: Evaluator, model: Model, progress: Progress, label: str, exchange: Exchange) -> list[Item]:
    """The items of this rank's units, up to the one during which a signal came: a read that hangs does not keep a stopped run."""
    mine, items = range(exchange.rank, len(evaluator), exchange.world), []
    with progress.phase(label + (f", process 1 of {exchange.world}" if exchange.world > 1 else "")) as callback:
        for done, unit in enumerate(mine, start=1):
            if stopping.asked():
                break
            try:
                with stopping.waiting("for an evaluation"):
                    items += measured(evaluator, model, unit)
            except stopping.Stopped:
                if not stopping.patient():  # nobody would ask for the signal later
                    raise
                break
            callback(done, len(mine))
    return items


def evaluate_all(
    model: Model, evaluators: Mapping[str, Evaluator], progress: Progress, exchange: Exchange | None = None
) -> dict[str, Evaluation]:
    """Each evaluator's result under its name in the recipe; see ``evaluate``."""
    return {name: evaluate(name, evaluator, model, progress, exchange) for name, evaluator in evaluators.items()}


def _alone() -> Exchange:
    from core.engine.parallel.exchange import Alone  # late: it imports torch, which the comparison's commands do without

    return Alone()


def metric_values(results: Mapping[str, Evaluation]) -> dict[str, float]:
    """``{"refcoco/cIoU": 0.7, ...}``: the metrics as a tracker takes them."""
    return {f"{name}/{metric}": value for name, result in results.items() for metric, value in result.metrics.items()}


def _rows(before: Mapping[str, Evaluation], after: Mapping[str, Evaluation]) -> Iterator[tuple[str, str, str, str, str]]:
    """evaluator, metric, before, after, change; a dash where there is no value."""

    def shown(value: float | None, metric: str, sign: str = "") -> str:
        if value is None:
            return "–"
        return f"{value:{sign}.0f}" if metric.startswith("n_") else f"{value:{sign}.4f}"

    for name in dict.fromkeys([*before, *after]):
        first = before[name].metrics if name in before else {}
        last = after[name].metrics if name in after else {}
        for metric in dict.fromkeys([*first, *last]):
            a, b = first.get(metric), last.get(metric)
            change = None if a is None or b is None else b - a
            yield name, metric, shown(a, metric), shown(b, metric), shown(change, metric, "+")


def before_after_table(before: Mapping[str, Evaluation], after: Mapping[str, Evaluation], console: Console | None = None) -> str:
    """The metrics before and after as Markdown; also printed as a table where a ``console`` is given."""
    header = ("evaluator", "metric", "before", "after", "change")
    lines = ["| " + " | ".join(header) + " |", "|---|---|---:|---:|---:|"]
    table = Table(*header[:2])
    for column in header[2:]:
        table.add_column(column, justify="right")
    for row in _rows(before, after):
        lines.append("| " + " | ".join(row) + " |")
        table.add_row(*row)
    if console:
        console.print(table)
    return "\n".join(lines) + "\n"


def strict(value: Any) -> Any:
    """``value`` as strict JSON has it: numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [strict(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def write_result(
    folder: Path,
    before: Mapping[str, Evaluation],
    after: Mapping[str, Evaluation],
    extra: Mapping[str, Any] | None = None,
    during: Sequence[Mapping[str, Any]] = (),
) -> None:
    """``result.json`` (before, after, what ``extra`` holds, and each evaluation ``during`` training) and ``result.md`` in ``folder``."""
    extra = extra or {}
    numbers = {
        "before": {name: result.metrics for name, result in before.items()},
        "after": {name: result.metrics for name, result in after.items()},
        **({"during": during} if during else {}),
    }
    facts = [line for key, value in extra.items() for line in _facts(key, value)]
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "result.json", json.dumps(strict({**numbers, **extra}), indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    write_whole(folder / "result.md", "\n".join(["# Result", "", before_after_table(before, after), *facts]) + "\n")


def _facts(key: str, value: Any) -> list[str]:
    """Lines of a list; what holds lists has a line for each of its own keys."""
    if isinstance(value, Mapping) and any(isinstance(inner, list) for inner in value.values()):
        return [f"- {key}:", *(f"  - {name}: {_fact(inner)}" for name, inner in value.items())]
    return [f"- {key}: {_fact(value)}"]


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_fact(inner)}" for key, inner in value.items() if inner not in ("", [], {}))
    if isinstance(value, list):
        return "; ".join(map(_fact, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_whole(path: Path, text: str) -> None:
    """Writes a temporary file and renames it: ``path`` is complete or unchanged."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
