"""Evaluators at work, in a run and in ``core.evaluate``, and the files in which a run says what they found."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.contracts import BadSample, Evaluation, Evaluator, Item, Model, ShowsPictures, UserError, WholeMetrics
from core.engine.launch import stopping
from core.engine.progress import Progress
from core.engine.undisturbed import undisturbed
from core.evaluation.intervals import DRAWS, SEED, draw

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
    drawn = draw(evaluator, [item["unit"] for item in good], evaluator.tally(good))
    if len(good) < len(items):
        warnings.warn(f"{len(items) - len(good)} of {len(items)} items of {name} were not used: {bad_reasons(items)}.", stacklevel=4)
    shown = good[:: math.ceil(len(good) / SHOWN)]
    pictures = [evaluator.picture(item) for item in shown] if isinstance(evaluator, ShowsPictures) else []
    return Evaluation(metrics, pictures, seven_digits(drawn), digest(good))


def seven_digits(draws: Mapping[str, np.ndarray]) -> dict[str, list[float | None]]:
    """The draws [R] of each metric as JSON holds them; None where one is not finite."""
    return {name: [float(f"{value:.7g}") if math.isfinite(value) else None for value in values.tolist()] for name, values in draws.items()}


def digest(items: Sequence[Item]) -> str:
    """Of what was measured and how it was drawn; equal for two models asked the same."""
    asked = [(item["unit"], item["id"]) for item in items if "bad" not in item]
    return hashlib.sha256(json.dumps([DRAWS, SEED, asked]).encode()).hexdigest()


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
    said: str = "",
) -> None:
    """``result.json`` (before, after, the intervals of the changes, what ``extra`` holds, and each evaluation ``during`` training) and
    ``result.md``, with the sentence ``said`` under its table, in ``folder``."""
    from core.engine.before_after import before_after_table, to_json  # late: most that use this file write no result

    extra, intervals = extra or {}, to_json(before, after)
    numbers = {
        "before": {name: result.metrics for name, result in before.items()},
        "after": {name: result.metrics for name, result in after.items()},
        **({"change_intervals": intervals} if intervals else {}),
        **({"during": during} if during else {}),
    }
    facts = [line for key, value in extra.items() for line in _facts(key, value)]
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "result.json", json.dumps(strict({**numbers, **extra}), indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    write_whole(
        folder / "result.md", "\n".join(["# Result", "", before_after_table(before, after), *([said, ""] if said else []), *facts]) + "\n"
    )


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
