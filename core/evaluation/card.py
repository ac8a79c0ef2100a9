"""The result card: what was measured of which weights under which protocol, for programs (JSON) and for people (Markdown)."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from core.contracts import Evaluator, Item, Picture
from core.engine.evaluation import bad_reasons, scored, strict, usable, write_whole
from core.engine.sheet import picture_sheet
from core.evaluation.intervals import DRAWS, LEVEL, SEED, intervals

PACKAGES = ("dualloop", "torch", "transformers", "peft", "numpy", "Pillow", "pycocotools", "pycocoevalcap")
COLUMNS = 4  # pictures in each row of the sheet: the best, those in the middle, the worst

Results = dict[str, dict[str, Any]]  # metric -> {"value": v, "interval": [low, high]}


def results(name: str, evaluator: Evaluator, items: Sequence[Item]) -> dict[str, Any]:
    """Every metric with its interval, where it has one. Raises ``UserError`` where nothing could be measured."""
    good = usable(items, name)
    tally = evaluator.tally(good)
    ends = intervals(evaluator, [item["unit"] for item in good], tally)
    metrics = scored(evaluator, items, tally)
    return {metric: {"value": value} | ({"interval": list(ends[metric])} if metric in ends else {}) for metric, value in metrics.items()}


def versions() -> dict[str, str]:
    """Of Python and the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # an extra
            continue
    return found


def sha256(path: Path) -> str:
    """Of a file; of a folder, over the names and contents of its weights and JSON files."""
    if path.is_file():
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    digest = hashlib.sha256()
    for file in sorted(file for file in path.iterdir() if file.suffix in (".safetensors", ".json", ".bin", ".pth") and file.is_file()):
        digest.update(f"{file.name}\0{sha256(file)}\n".encode())
    return digest.hexdigest()


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
    header, rows = table_rows(found)
    lines = [f"# {name}", "", "| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", f"In brackets: {LEVEL:.0%} intervals from {DRAWS} draws of the pictures (seed {SEED}).", ""]
    lines += [f"- {key}: {_shown(value)}" for key, value in card.items() if key not in ("evaluator", "results", "interval") and value]
    write_whole(folder / "card.md", "\n".join(lines) + "\n")


def result_name(name: str, variant: str) -> str:
    return name if variant == "full" else f"{name}:{variant}"


def table_rows(found: Mapping[str, Results]) -> tuple[list[str], list[list[str]]]:
    """metric, then a column for each variant."""

    def cell(metric: str, given: Mapping[str, Any] | None) -> str:
        if given is None:
            return "–"
        if metric.startswith("n_"):
            return f"{given['value']:.0f}"
        return f"{given['value']:.4f}" + (" [{:.4f}, {:.4f}]".format(*given["interval"]) if "interval" in given else "")

    metrics = dict.fromkeys(metric for values in found.values() for metric in values)
    return ["metric", *found], [[metric, *(cell(metric, values.get(metric)) for values in found.values())] for metric in metrics]


def show(console: Console, name: str, found: Mapping[str, Results]) -> None:
    """The table on a terminal or in a log."""
    header, rows = table_rows(found)
    if len(header) > 3:  # variants with their intervals would not fit beside each other
        header, rows = ["metric", "variant", "value"], [[row[0], variant, row[n]] for row in rows for n, variant in enumerate(header) if n]
    table = Table(header[0], title=name, title_justify="left")
    for column in header[1:]:
        table.add_column(column, justify="left" if column == "variant" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def sheet(path: Path, name: str, evaluator: Any, items: Sequence[Item]) -> None:
    """The best, the middle and the worst by ``score``, a row each. Nothing where the evaluator has no pictures."""
    ranked = sorted((item for item in items if "score" in item), key=lambda item: (-item["score"], item["unit"], item["id"]))
    if not hasattr(evaluator, "picture") or not ranked:
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
