"""A table of numbers as CSV in the run folder."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from core.contracts import RunInfo


class TemplateName:
    """One row ``update,name,value`` for each number; a resumed run goes on in the same file."""

    def __init__(self, *, file: str = "template_name.csv") -> None:
        self.file = file
        self._path: Path | None = None

    def start(self, run: RunInfo) -> None:
        self._path = run.folder / self.file

    def log(self, update: int, values: Mapping[str, float]) -> None:
        if self._path is None:
            raise RuntimeError("start() comes before log().")
        with self._path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows((update, name, value) for name, value in values.items())

    def picture(self, update: int, name: str, path: Path) -> None:
        """Nothing to do: the picture is in the run folder."""

    def finish(self, summary: Mapping[str, float]) -> None:
        self.log(-1, summary)
