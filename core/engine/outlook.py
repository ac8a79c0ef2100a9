"""Warnings of a run whose loops report figures with which they can hardly be expected to help: each once, early in the run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from core.contracts import Loop, TellsOutlook

UPDATES = 20  # in which a task took part, whose mean is judged; fewer where the run ends before


class Doubts:
    """Of the tasks of one process's run."""

    def __init__(self, tasks: Mapping[str, Loop]) -> None:
        """``tasks``: by ``loop/task``, as the log names their figures."""
        self._open = {name: task for name, task in tasks.items() if isinstance(task, TellsOutlook)}
        self._seen: dict[str, list[dict[str, float]]] = defaultdict(list)

    def take(self, values: Mapping[str, float], last: bool) -> Iterator[str]:
        """The sentences that are due after an update that logged ``values``; ``last``: none comes after it."""
        for name, task in list(self._open.items()):
            found = {key.removeprefix(f"{name}/"): value for key, value in values.items() if key.startswith(f"{name}/")}
            self._seen[name] += [found] if found else []
            rows = self._seen[name]
            if len(rows) < (1 if last else UPDATES):
                continue
            del self._open[name]
            figures = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0] if all(key in row for row in rows)}
            for doubt in task.outlook(figures).doubts:
                yield f"warning: {name} can hardly be expected to help so far: {doubt}"
