"""All trackers of a run as one: a tracker that fails is switched off, the run goes on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from core.contracts import RunInfo, Tracker


class Trackers:
    """Fans every call out to the named trackers, in their order; is itself a ``Tracker``.

    A tracker that raises is switched off for the rest of the run, with one call of ``warn``.
    """

    def __init__(self, trackers: Mapping[str, Tracker], warn: Callable[[str], Any] = warnings.warn) -> None:
        self._active = dict(trackers)
        self._warn = warn

    @property
    def active(self) -> tuple[str, ...]:
        """The names of the trackers that still work."""
        return tuple(self._active)

    def start(self, run: RunInfo) -> None:
        self._each("start", run)

    def log(self, update: int, values: Mapping[str, float]) -> None:
        self._each("log", update, values)

    def picture(self, update: int, name: str, path: Path) -> None:
        self._each("picture", update, name, path)

    def finish(self, summary: Mapping[str, float]) -> None:
        self._each("finish", summary)

    def _each(self, method: str, *arguments: Any) -> None:
        for name, tracker in list(self._active.items()):
            try:
                getattr(tracker, method)(*arguments)
            except Exception as error:  # whatever a tracker's server, disk or library throws must not cost hours of training
                del self._active[name]
                self._warn(
                    f"tracker {name!r} failed in {method}() and is switched off, the run goes on without it: "
                    f"{type(error).__name__}: {error}"
                )
