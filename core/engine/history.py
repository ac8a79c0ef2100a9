"""What a run logged before it was resumed, read back from its metrics file. Importing this does not import torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core.engine.evaluation import write_whole

NO_METRICS = ("update", "time", "non_finite")
TERMS = "loss_terms.json"  # in a run's folder: which of its metrics are terms of a loss, [LOOP/TASK/TERM, ...]


def keep_terms(folder: Path, terms: Iterable[str]) -> None:
    """Adds to the names in ``TERMS``, which is complete or unchanged: a metric's name alone does not say that it is a loss."""
    names = dict.fromkeys([*kept_terms(folder), *terms])
    write_whole(folder / TERMS, json.dumps(list(names)) + "\n")


def kept_terms(folder: Path) -> list[str]:
    """The names in ``TERMS``; empty for a run that has not written them."""
    try:
        found = json.loads((folder / TERMS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def metrics_file(recipe: Mapping[str, Any]) -> str:
    """The name of the file in the run's folder that has a line for each update: that of the recipe's jsonl tracker, or the usual one."""
    trackers = recipe.get("track")
    own = [t.get("file") for t in trackers.values() if isinstance(t, Mapping) and t.get("use") == "jsonl"] if trackers else []
    return own[0] if own and isinstance(own[0], str) else "metrics.jsonl"


def rows(file: Path) -> tuple[dict[int, dict[str, Any]], int]:
    """(update -> row, the number of damaged lines). Rows of one update are joined; a last line that is being written is left out."""
    found: dict[int, dict[str, Any]] = {}
    bad = 0
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n") if file.is_file() else []
    for line in lines:
        try:
            row = json.loads(line) if line else None
        except ValueError:
            bad += line is not lines[-1]
            continue
        if isinstance(row, dict) and isinstance(row.get("update"), int):
            found[row["update"]] = found.get(row["update"], {}) | row
    return dict(sorted(found.items())), bad


def logged_before(folder: Path, recipe: Mapping[str, Any], start: int) -> tuple[list[dict[str, float]], int]:
    """(the finite values of each of the first ``start`` updates that was not skipped, the number of updates of which there is no row)."""
    found = {update: row for update, row in rows(folder / metrics_file(recipe))[0].items() if 0 < update <= start}
    history, skipped = [], 0.0
    for row in found.values():
        count = row.get("optimizer/skipped", skipped)
        if count == skipped:
            history.append({name: value for name, value in row.items() if name not in NO_METRICS and isinstance(value, int | float)})
        skipped = count
    return history, start - len(found)
