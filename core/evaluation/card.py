"""The result card: what was measured of which weights under which protocol, for programs (JSON) and for people (Markdown)."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from core.contracts import Evaluator, Item, Picture, ShowsPictures
from core.engine.evaluation import bad_reasons, scored, strict, usable, write_whole
from core.engine.sheet import picture_sheet
from core.evaluation.intervals import DRAWS, LEVEL, SEED, draw, interval
from core.installed.versions import versions

COLUMNS = 4  # pictures in each row of the sheet: the best, those in the middle, the worst

Results = dict[str, dict[str, Any]]  # metric -> {"value": v, "interval": [low, high], "to_full": {the same of the difference}}


@dataclass
class Measured:
    """One variant's items, put together."""

    metrics: dict[str, float]
    units: list[int]  # of each usable item
    draws: dict[str, np.ndarray]  # metric -> [R]

    @classmethod
    def of(cls, name: str, evaluator: Evaluator, items: Sequence[Item]) -> Measured:
        """Raises ``UserError`` where nothing could be measured."""
        good = usable(items, name)
        tally, units = evaluator.tally(good), [item["unit"] for item in good]
        return cls(scored(evaluator, items, tally), units, draw(evaluator, units, tally))


def results(measured: Measured, full: Measured | None) -> Results:
    """Every metric with its interval, where it has one, and with its difference to ``full``, another variant of the same model."""
    found: Results = {}
    paired = full is not None and set(full.units) == set(measured.units)
    for metric, value in measured.metrics.items():
        found[metric] = {"value": value} | _ends(measured.draws.get(metric))
        if full is not None and paired and metric in measured.draws:
            difference = {"value": value - full.metrics[metric]} | _ends(measured.draws[metric] - full.draws[metric])
            found[metric]["to_full"] = difference
    return found


def _ends(draws: np.ndarray | None) -> dict[str, Any]:
    found = interval(draws) if draws is not None else None
    return {"interval": list(found)} if found else {}


def write_card(
    folder: Path, name: str, protocol: Mapping[str, Any], found: Mapping[str, Results], bad: Sequence[Item], facts: Mapping[str, Any]
) -> None:
    """``card.json`` and ``card.md``. ``found``: variant -> results; the results of ``full`` go by the evaluator's name alone."""
    card = {
        "evaluator": name,
        "results": {result_name(name, variant): values for variant, values in found.items()},
        **protocol,
        "interval": {"level": LEVEL, "draws": DRAWS, "seed": SEED, "drawn": "units (pictures), with replacement; percentiles"},
        "bad": bad_reasons(bad),
        **facts,
        "versions": versions(),
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_whole(folder / "card.json", json.dumps(strict(card), indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    lines = [f"# {title(name, protocol)}", "", *_markdown(*table_rows(found))]
    differences = {variant: {m: given["to_full"] for m, given in values.items() if "to_full" in given} for variant, values in found.items()}
    if any(differences.values()):
        some = {variant: values for variant, values in differences.items() if values}
        lines += ["", "Differences to full; both are drawn on the same pictures.", "", *_markdown(*table_rows(some, "+"))]
    lines += ["", f"In brackets: {LEVEL:.0%} intervals from {DRAWS} draws of the pictures (seed {SEED}).", ""]
    lines += [f"- {key}: {_shown(value)}" for key, value in card.items() if key not in ("evaluator", "results", "interval") and value]
    write_whole(folder / "card.md", "\n".join(lines) + "\n")


def title(name: str, protocol: Mapping[str, Any]) -> str:
    """The evaluator's name, and whose weights it measured unless they are those that were trained."""
    weights = protocol.get("checkpoint", {}).get("weights")
    return f"{name} (the {weights}'s weights)" if weights else name


def result_name(name: str, variant: str) -> str:
    return name if variant == "full" else f"{name}:{variant}"


def _markdown(header: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (header, ["---", *["---:"] * (len(header) - 1)], *rows)]


def _cell(metric: str, given: Mapping[str, Any] | None, sign: str = "") -> str:
    if given is None:
        return "–"
    if metric.startswith("n_"):
        return f"{given['value']:.0f}"
    ends = given.get("interval")
    return f"{given['value']:{sign}.4f}" + (f" [{ends[0]:{sign}.4f}, {ends[1]:{sign}.4f}]" if ends else "")


def table_rows(found: Mapping[str, Results], sign: str = "") -> tuple[list[str], list[list[str]]]:
    """metric, then a column for each variant."""
    metrics = dict.fromkeys(metric for values in found.values() for metric in values)
    return ["metric", *found], [[metric, *(_cell(metric, values.get(metric), sign) for values in found.values())] for metric in metrics]


def show(console: Console, name: str, found: Mapping[str, Results]) -> None:
    """On a terminal or in a log: a row for each metric of one variant; of several a row for each variant, the metrics as columns."""
    if len(found) == 1:
        _print(console, name, *table_rows(found))
        return
    counts: list[str] = []
    metrics: list[str] = []
    for metric in dict.fromkeys(metric for values in found.values() for metric in values):
        given = [values[metric]["value"] for values in found.values() if metric in values]
        same = metric.startswith("n_") and len(set(given)) == 1
        (counts if same else metrics).append(metric)
    first = next(iter(found.values()))
    title = ", ".join([name, *(f"{metric} {first[metric]['value']:.0f}" for metric in counts if metric in first)])
    room, start = console.width - max(map(len, found)) - 4, 0
    while start < len(metrics):
        end, used = start, 0
        while end < len(metrics) and (end == start or used + max(len(metrics[end]), 8) + 3 <= room):
            used += max(len(metrics[end]), 8) + 3
            end += 1
        rows = [[variant, *(_short(metric, values.get(metric)) for metric in metrics[start:end])] for variant, values in found.items()]
        _print(console, title if start == 0 else "", ["variant", *metrics[start:end]], rows)
        start = end
    console.print("* differs from full: the interval of the difference leaves out 0; all intervals are on the card", highlight=False)


def _short(metric: str, given: Mapping[str, Any] | None) -> str:
    """A value without its interval, marked where it differs from that of ``full``."""
    if given is None:
        return "–"
    low, high = given.get("to_full", {}).get("interval") or (0.0, 0.0)
    return _cell(metric, {"value": given["value"]}) + ("*" if low > 0 or high < 0 else "")


def _print(console: Console, title: str, header: list[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(header[0], title=title or None, title_justify="left")
    table.columns[0].no_wrap = True
    for column in header[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def sheet(path: Path, name: str, evaluator: Any, items: Sequence[Item]) -> None:
    """The best, the middle and the worst by ``score``, a row each. Nothing where the evaluator has no pictures."""
    ranked = sorted((item for item in items if "score" in item), key=lambda item: (-item["score"], item["unit"], item["id"]))
    if not isinstance(evaluator, ShowsPictures) or not ranked:
        return
    many = min(COLUMNS, max(1, len(ranked) // 3))
    start = (len(ranked) - many) // 2
    rows = {"best": ranked[:many], "median": ranked[start : start + many], "worst": ranked[-many:]}
    if len(ranked) < 3:
        rows = {"all": ranked}
    pictures: list[Picture] = []
    for label, chosen in rows.items():
        for item in chosen:
            picture = evaluator.picture(item)
            pictures.append(
                Picture(f"{label}: {picture.title}", picture.image, picture.truth, picture.predicted, picture.text, picture.score)
            )
    picture_sheet(pictures, path, columns=len(ranked) if "all" in rows else many, title=f"{name}: best, median and worst of {len(ranked)}")


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(inner)}" for key, inner in value.items() if inner not in (None, {}, []))
    return f"({', '.join(map(str, value))})" if isinstance(value, list | tuple) else str(value)
