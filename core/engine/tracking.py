"""All trackers of a run as one: a tracker that fails is switched off, one that is slow is not waited for, the run goes on."""

from __future__ import annotations

import atexit
import resource
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import Queue
from typing import Any

from core.contracts import InBackground, Picture, RunInfo, Sample, ShowsPanels, ShowsTrainingSamples, Tracker

#: Calls that may wait for a slow tracker; further ones are left out.
MOST_WAITING = 2000


class Trackers:
    """Fans every call out to the named trackers, in their order; is itself a ``Tracker``.

    A tracker that raises is switched off for the rest of the run, with one call of ``warn``. One whose ``background`` is True
    makes all its calls in a thread of its own, and gets at most ``patience_s`` seconds after ``finish``. Its imports happen there
    too: whatever forks, such as a loader's workers, must have done so before ``start``.
    """

    def __init__(self, trackers: Mapping[str, Tracker], warn: Callable[[str], Any] = warnings.warn, patience_s: float = 120.0) -> None:
        self._active = dict(trackers)
        self._warn, self._patience_s = warn, patience_s
        self._threads: dict[str, _Background] = {}

    @property
    def active(self) -> tuple[str, ...]:
        """The names of the trackers that still work, as far as that is known."""
        return tuple(self._active)

    def start(self, run: RunInfo) -> None:
        in_background = {name: one for name, one in self._active.items() if isinstance(one, InBackground) and one.background}
        self._threads = {name: _Background(tracker) for name, tracker in in_background.items()}
        self._each("start", run)

    def log(self, update: int, values: Mapping[str, float]) -> None:
        self._each("log", update, values)

    def picture(self, update: int, name: str, path: Path) -> None:
        self._each("picture", update, name, path)

    def panels(self, update: int, name: str, pictures: Sequence[Picture]) -> None:
        """The pictures themselves, for the trackers that show masks and texts in their own way."""
        self._each("panels", update, name, pictures, of=ShowsPanels)

    def training_samples(self, update: int, name: str, samples: Sequence[Sample]) -> None:
        """What a loop made of some regions; as panels for the trackers that show pictures but know no samples."""
        self._each("training_samples", update, name, samples, of=ShowsTrainingSamples)
        self._each("panels", update, name, samples, of=ShowsPanels, but=ShowsTrainingSamples)

    def finish(self, summary: Mapping[str, float]) -> None:
        self._each("finish", summary)
        until = time.monotonic() + self._patience_s
        for name, thread in list(self._threads.items()):
            if not thread.end(max(0.0, until - time.monotonic())):
                self._off(name, f"is still busy {self._patience_s:.0f} s after the end of the run, which does not wait for it")
            elif thread.error is not None:
                self._failed(name, thread.method, thread.error)
            elif thread.left_out:
                self._warn(f"tracker {name!r} was too slow: {thread.left_out} of its calls were left out")
        self._threads = {}

    def _each(self, method: str, *arguments: Any, of: type | None = None, but: type | None = None) -> None:
        """Calls a method on every tracker; one of the optional protocol ``of`` on those that have it, but have not ``but``."""
        for name, tracker in list(self._active.items()):
            if (of is not None and not isinstance(tracker, of)) or (but is not None and isinstance(tracker, but)):
                continue
            thread = self._threads.get(name)
            try:
                if thread is None:
                    getattr(tracker, method)(*arguments)
                elif thread.error is None:
                    thread.call(method, *arguments)
                else:
                    self._failed(name, thread.method, thread.error)
            except Exception as error:  # whatever a tracker's server, disk or library throws must not cost hours of training
                self._failed(name, method, error)

    def _failed(self, name: str, method: str, error: BaseException) -> None:
        self._off(name, f"failed in {method}() and is switched off, the run goes on without it: {type(error).__name__}: {error}")

    def _off(self, name: str, why: str) -> None:
        del self._active[name]
        self._threads.pop(name, None)
        self._warn(f"tracker {name!r} {why}")


def peak_gib(device: str) -> float:
    """The most memory so far, in GiB: allocated on the GPU, or resident of this process on the CPU."""
    if device == "cuda":
        import torch  # late: the comparison's commands import this package without it

        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class _Background:
    """A thread that makes a tracker's calls, in their order; it stops at the first that raises."""

    def __init__(self, tracker: Tracker) -> None:
        self.error: BaseException | None = None
        self.method, self.left_out = "", 0
        self._tracker = tracker
        self._waiting: Queue[tuple[str, tuple[Any, ...]] | None] = Queue()
        self._thread = threading.Thread(target=self._work, name=f"tracker {type(tracker).__name__}", daemon=True)
        self._thread.start()
        atexit.register(self.end, 10.0)  # a run that ends with an error does not call finish

    def call(self, method: str, *arguments: Any) -> None:
        """Never waits. Mappings are copied: the run goes on changing its own."""
        if self._waiting.qsize() >= MOST_WAITING and method != "finish":
            self.left_out += 1
            return
        self._waiting.put((method, tuple(dict(value) if isinstance(value, Mapping) else value for value in arguments)))

    def end(self, patience_s: float) -> bool:
        """Waits until all calls are made; False if they are not after ``patience_s`` seconds."""
        atexit.unregister(self.end)
        self._waiting.put(None)
        self._thread.join(patience_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            self.method, arguments = waiting
            try:
                getattr(self._tracker, self.method)(*arguments)
            except BaseException as error:
                self.error = error
                return
