"""What an index leaves out, counted while it is built and kept in it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict

import numpy as np

from core.contracts import Dataset, LeftOut, TellsUsage, Usage
from plugins.datasets._cache import Index, pack

#: So many of each reason are named; all are counted.
NAMED = 100
_KEY = "usage"


class Tally:
    """The count of a build: ``leave`` for each entry without a sample, ``arrays`` for the index, ``usage_of_index`` afterwards."""

    def __init__(self, unit: str) -> None:
        """``unit``: what an entry of the source is, in the plural."""
        self.unit = unit
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self._counts: dict[tuple[str, str], int] = defaultdict(int)  # (reason, advice) ->
        self._named: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)

    def leave(self, reason: str, sample: str, detail: str = "", advice: str = "", count: int = 1) -> None:
        """``count`` entries give no sample; ``sample``: the id or the place of the (first) one."""
        self._counts[reason, advice] += count
        if len(self._named[reason, advice]) < NAMED:
            self._named[reason, advice].append((sample, detail))

    @property
    def left(self) -> tuple[LeftOut, ...]:
        return tuple(LeftOut(reason, count, advice, tuple(self._named[reason, advice])) for (reason, advice), count in self._counts.items())

    def arrays(self, of: int) -> dict[str, np.ndarray]:
        """For the index, beside its own arrays. ``of``: entries of the source, those left out among them."""
        return pack(_KEY, [json.dumps(asdict(Usage(of, self.unit, self.left, tuple(self.notes), tuple(self.warnings))))])


def usage_of_index(index: Index, chosen: int | None = None, rows: int | None = None) -> Usage:
    """What the build of the index has counted. ``chosen`` of ``rows`` regions were taken by max_samples, where both are given."""
    kept = json.loads(index.text(_KEY, 0))
    left = tuple(LeftOut(**one | {"examples": tuple((sample, detail) for sample, detail in one["examples"])}) for one in kept["left_out"])
    notes = tuple(kept["notes"])
    if chosen is not None and rows is not None and chosen < rows:
        notes = (*notes, f"max_samples takes {chosen:,} of its {rows:,} regions")
    return Usage(kept["of"], kept["unit"], left, notes, tuple(kept["warnings"]))


def usages(datasets: Iterable[Dataset]) -> list[Usage]:
    """What each of them tells; a wrapper tells of what is inside it."""
    return [usage for dataset in datasets if isinstance(dataset, TellsUsage) for usage in dataset.usage()]
