"""Making indices: many files read in parallel, lines found; with a progress bar where it takes long."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import current_process, get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from core.cores import cores
from plugins.datasets._cache import keeping

Place = TypeVar("Place", bound=tuple[Any, ...])
_CHUNK = 256  # files read by a worker at a time, and the step of a restart
_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def over_files(
    source: str, function: Callable[[tuple[str, ...]], np.ndarray], names: Sequence[str], partial: Path, width: int
) -> np.ndarray:
    """[n, 1 + width] int32: rows that ``function`` finds in each file of a chunk, whose first column counts within the chunk.

    ``function(names) -> [m, 1 + width]``; the result's first column counts over all ``names``. Chunks are read in
    parallel and kept in ``partial`` until all are done, so an interrupted build goes on where it was.
    """
    chunks = [tuple(names[start : start + _CHUNK]) for start in range(0, len(names), _CHUNK)]
    with keeping(source):
        partial.mkdir(parents=True, exist_ok=True)
    files = [partial / f"{number:06d}.npy" for number in range(len(chunks))]
    missing = [number for number, file in enumerate(files) if not file.is_file()]
    progress, done = _Progress(source, len(chunks)), len(chunks) - len(missing)

    def keep(number: int, rows: np.ndarray) -> None:
        beside = files[number].with_suffix(f".{os.getpid()}.new")
        with keeping(source):
            with beside.open("wb") as file:
                np.save(file, rows, allow_pickle=False)
            beside.replace(files[number])
        nonlocal done
        done += 1
        progress.at(done)

    processes = min(cores(), 16, len(missing))
    if len(missing) < 4 or processes < 2 or current_process().daemon:  # a pool's own process may have no children
        for number in missing:
            keep(number, function(chunks[number]))
    else:
        with ProcessPoolExecutor(processes, get_context("fork"), initializer=_die_with, initargs=(os.getpid(),)) as pool:
            for number, rows in zip(missing, pool.map(function, [chunks[number] for number in missing]), strict=True):
                keep(number, rows)
    progress.close()
    with keeping(source):
        parts = [np.load(file, allow_pickle=False) for file in files]
    for number, rows in enumerate(parts):
        rows[:, 0] += number * _CHUNK
    return np.concatenate([np.empty((0, 1 + width), np.int32), *parts])


def _die_with(parent: int) -> None:
    """Ends this process with its parent, however that ends: left behind, it would hold the index's lock for ever."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)


def watched(source: str, total: int, places: Iterable[Place]) -> Iterator[Place]:
    """The same items, with the progress shown; the last value of each says how far of ``total`` it is."""
    progress = _Progress(source, total)
    for item in places:
        progress.at(item[-1])
        yield item
    progress.close()


class _Progress:
    """How far a build is, once it takes longer than two seconds: a bar on a terminal, else a line every ten seconds."""

    def __init__(self, source: str, total: int) -> None:
        self.source, self.total, self.due = source, total, time.monotonic() + 2
        self.bar: Any = None

    def at(self, done: int) -> None:
        if (now := time.monotonic()) < self.due:
            return
        if not sys.stderr.isatty():
            print(f"{self.source}: indexing, {100 * done // self.total} % done", file=sys.stderr, flush=True)
            self.due = now + 10
            return
        if self.bar is None:
            from rich.console import Console
            from rich.progress import Progress

            self.bar = Progress(console=Console(stderr=True), auto_refresh=False)  # no thread beside the processes
            self.bar.start()
            self.bar.add_task(f"{self.source}: indexing", total=self.total)
        self.bar.update(0, completed=done, refresh=True)
        self.due = now + 0.2

    def close(self) -> None:
        if self.bar is not None:
            self.bar.update(0, completed=self.total, refresh=True)
            self.bar.stop()


def line_starts(path: Path, begin: int, kind: str = "u1") -> np.ndarray:
    """[n] int64 byte offsets of the lines from ``begin`` on that are not blank. ``kind``: numpy's name of a code unit."""
    unit = np.dtype(kind)
    ends, place = [], begin
    with path.open("rb") as file:
        file.seek(begin)
        while block := file.read(2**24):
            found = np.flatnonzero(np.frombuffer(block[: len(block) // unit.itemsize * unit.itemsize], unit) == 10)
            ends.append((found if unit.itemsize == 1 else found * unit.itemsize) + (place + unit.itemsize))
            place += len(block)
        starts = np.concatenate([[begin], *ends]).astype(np.int64)  # [n + 1], the last may be the end of the file
        starts = np.unique(starts[starts < place])
        keep = np.ones(len(starts), bool)
        lengths = np.diff(np.append(starts, place))
        for row in np.flatnonzero(lengths < 16 * unit.itemsize):  # a line of data is longer
            file.seek(int(starts[row]))
            keep[row] = bool(file.read(int(lengths[row])).strip(b"\0 \t\r\n"))
    return starts[keep]
