"""Metrics as lines of JSON in the run folder: always readable, by anything, without an account."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from core.contracts import RunInfo


def finite_only(values: Mapping[str, float]) -> dict[str, Any]:
    """The values as strict JSON allows them: NaN and infinities become null and are named in ``non_finite``."""
    numbers = {name: float(value) for name, value in values.items()}
    non_finite = [name for name, number in numbers.items() if not math.isfinite(number)]
    row: dict[str, Any] = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
    return row | ({"non_finite": non_finite} if non_finite else {})


class Jsonl:
    """One JSON object for each ``log`` call: ``{"update": 3, "time": 1.7e9, "loss/loop1": 0.2, ...}``.

    ``time`` is in seconds since 1970. The file is flushed after every line. On resume the lines past the resumed update
    and a line cut short by a crash are dropped, so that no update appears twice. The summary goes next to the file,
    as ``metrics_summary.json``; pictures are files of the run folder already and are not logged here.
    """

    def __init__(self, *, file: str = "metrics.jsonl") -> None:
        if not file or Path(file).name != file:
            raise ValueError(f"file must be a plain file name inside the run folder, not {file!r}.")
        self.file = file
        self._stream: TextIO | None = None
        self._path = Path(file)

    def start(self, run: RunInfo) -> None:
        self._path = run.folder / self.file
        run.folder.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            if run.resumed_at == 0:  # a new run in a used folder: the old lines are kept, but not mixed with the new ones
                shutil.copyfile(self._path, self._path.with_name(self._path.name + ".previous"))
            self._drop_after(run.resumed_at)  # what was measured before training, as update 0, is not measured again
        self._stream = self._path.open("a", encoding="utf-8", buffering=1)

    def log(self, update: int, values: Mapping[str, float]) -> None:
        if self._stream is None:
            raise RuntimeError("start() comes before log().")
        row = {"update": update, "time": round(time.time(), 3)} | finite_only(values)
        self._stream.write(json.dumps(row, allow_nan=False) + "\n")

    def picture(self, update: int, name: str, path: Path) -> None:
        """Nothing to do: the picture is in the run folder."""

    def finish(self, summary: Mapping[str, float]) -> None:
        if self._stream is None:
            return
        self._stream.close()
        self._stream = None
        beside = self._path.with_name(self._path.stem + "_summary.json")
        _write(beside, json.dumps(finite_only(summary), indent=1, allow_nan=False) + "\n")

    def _drop_after(self, update: int) -> None:
        kept = []
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:  # the line during which the earlier run died
                continue
            if isinstance(row, dict) and row.get("update", 0) <= update:
                kept.append(line + "\n")
        _write(self._path, "".join(kept))


def _write(path: Path, text: str) -> None:
    """Writes a temporary file and renames it: ``path`` is complete or unchanged."""
    beside = path.with_name(path.name + ".new")
    with beside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)
