"""What the data sets of a run tell of their use: lines for the log, values for the result, what is left out for ``bad_samples.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.contracts import TellsUsage, Usage
from core.recipe import path_text
from core.recipe.faults import KeyPath

#: The share of a source left out from which ``core.check`` warns.
OFTEN = 0.01


def usages_of(parts: Mapping[KeyPath, Any]) -> dict[str, list[Usage]]:
    """Key path -> what the data set there tells. One inside another is told by that one."""
    telling = {path: part for path, part in parts.items() if isinstance(part, TellsUsage)}
    outermost = [path for path in telling if not any(path[:n] in telling for n in range(len(path)))]
    return {path_text(path): list(telling[path].usage()) for path in outermost}


def lines(found: Mapping[str, list[Usage]]) -> list[str]:
    """For the log."""
    return [f"data: {path}: {usage}" for path, usages in found.items() for usage in usages]


def for_result(found: Mapping[str, list[Usage]]) -> dict[str, Any]:
    """Key path -> used, of, unit, left_out (reason -> count), notes and warnings of each source there."""
    return {
        path: [
            {"used": one.used, "of": one.of, "unit": one.unit, "left_out": {left.reason: left.count for left in one.left_out}}
            | {name: list(texts) for name, texts in (("notes", one.notes), ("warnings", one.warnings)) if texts}
            for one in usages
        ]
        for path, usages in found.items()
    }


def write_left_out(file: Path, found: Mapping[str, list[Usage]]) -> None:
    """Adds what is left out to the bad samples, before the first update: ``update`` is null there."""
    rows = [row for path, usages in found.items() for usage in usages for row in _rows(path, usage)]
    if rows:
        with file.open("a", encoding="utf-8", errors="backslashreplace") as record:
            record.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _rows(path: str, usage: Usage) -> Iterator[dict[str, Any]]:
    for left in usage.left_out:
        row = {"update": None, "source": path, "reason": left.reason}
        for sample, detail in left.examples:
            yield row | {"sample": sample, "detail": detail}
        if left.count > len(left.examples):
            yield row | {"sample": "", "detail": f"{left.count - len(left.examples):,} more"}
