"""Indices kept on disk and memory-mapped: numpy arrays only, so that a million regions cost no Python objects.

An index is one file under ``$DUALLOOP_CACHE`` (default ``~/.cache/dualloop``). It is used only while what it was made
from is unchanged: name, size and modification time of each file go into its stamp. All workers map the same pages.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import current_process, get_context
from pathlib import Path
from typing import Any

import numpy as np

from core.contracts import UserError

_MAGIC = b"dualloop index 1\n"
_CHUNK = 256  # files read by a worker at a time, and the step of a restart


class Index:
    """Named arrays of a cache file. Pickled as its path: a worker maps the file again instead of receiving a copy."""

    def __init__(self, path: Path) -> None:
        """Raises ``ValueError`` or ``OSError`` for a file that is no complete index."""
        self.path = path
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise ValueError(f"{path} is no index")
            header = json.loads(file.readline(2**20))
            begin = file.tell()
        self.stamp: str = header["stamp"]
        if path.stat().st_size != begin + header["bytes"]:
            raise ValueError(f"{path} is cut")
        self._arrays = {
            name: np.memmap(path, np.dtype(kind), "r", begin + offset, tuple(shape)) if all(shape) else np.empty(shape, kind)
            for name, (kind, shape, offset) in header["arrays"].items()
        }

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __reduce__(self) -> tuple[type[Index], tuple[Path]]:
        return Index, (self.path,)

    def text(self, name: str, row: int) -> str:
        """One of the texts stored by ``pack``."""
        ends = self._arrays[f"{name}.ends"]
        begin = int(ends[row - 1]) if row else 0
        return bytes(self._arrays[name][begin : int(ends[row])]).decode("utf-8", "surrogatepass")


def pack(name: str, texts: Iterable[str]) -> dict[str, np.ndarray]:
    """Texts as two arrays: their bytes [c] uint8 and where each ends [n] int64."""
    data = [text.encode("utf-8", "surrogatepass") for text in texts]
    return {name: np.frombuffer(b"".join(data), np.uint8), f"{name}.ends": np.cumsum([len(one) for one in data], dtype=np.int64)}


def cache_folder() -> Path:
    """Where indices are kept."""
    given = os.environ.get("DUALLOOP_CACHE")
    return Path(given).expanduser() if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dualloop"


def stamp_of(files: Iterable[Path]) -> str:
    """A digest of path, size and modification time of each file. Raises ``OSError`` where one is missing."""
    digest = hashlib.sha256()
    for file in files:
        state = file.stat()
        digest.update(f"{file}\0{state.st_size}\0{state.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def listing(root: Path, prefix: str, suffix: str) -> list[str]:
    """Paths relative to ``root``, with slashes and sorted, of the files below it whose names begin and end so."""
    return sorted(
        os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")
        for folder, _, names in os.walk(root)
        for name in names
        if name.startswith(prefix) and name.endswith(suffix)
    )


def cached(source: str, options: Mapping[str, Any], stamp: str, build: Callable[[Path], Mapping[str, np.ndarray]]) -> Index:
    """The index of a source with these options; ``build(partial folder)`` is called where there is no current one.

    A file that is damaged or was made from other files is made anew. Raises ``UserError`` where it cannot be written.
    """
    key = hashlib.sha256(json.dumps([source, {k: str(v) for k, v in options.items()}], sort_keys=True).encode()).hexdigest()[:16]
    path = cache_folder() / f"{source}-{key}.index"
    if found := _current(path, stamp):
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("w")
    except OSError as fault:
        raise UserError(f"{source}: no index can be kept in {path.parent} ({fault}); set DUALLOOP_CACHE to another folder.") from fault
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released with the file; ranks of one run wait for the first
        if found := _current(path, stamp):
            return found
        partial = path.with_name(f"{path.stem}-{stamp[:16]}.part")
        _write(path, stamp, build(partial))
        shutil.rmtree(partial, ignore_errors=True)
    return Index(path)


def _current(path: Path, stamp: str) -> Index | None:
    try:
        index = Index(path)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent or damaged: made anew
    return index if index.stamp == stamp else None


def _write(path: Path, stamp: str, arrays: Mapping[str, np.ndarray]) -> None:
    places, offset = {}, 0
    for name, array in arrays.items():
        places[name] = (array.dtype.str, array.shape, offset)
        offset += -(-array.nbytes // 64) * 64
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    with beside.open("wb") as file:
        header = json.dumps({"stamp": stamp, "bytes": offset, "arrays": places}).encode()
        head = _MAGIC + header
        file.write(head + b" " * (-(len(head) + 1) % 64) + b"\n")  # arrays begin at a multiple of 64 bytes
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).tobytes())
            file.write(bytes(-array.nbytes % 64))
    beside.replace(path)


def over_files(
    source: str, function: Callable[[tuple[str, ...]], np.ndarray], names: Sequence[str], partial: Path, width: int
) -> np.ndarray:
    """[n, 1 + width] int32: rows that ``function`` finds in each file of a chunk, whose first column counts within the chunk.

    ``function(names) -> [m, 1 + width]``; the result's first column counts over all ``names``. Chunks are read in
    parallel and kept in ``partial`` until all are done, so an interrupted build goes on where it was.
    """
    chunks = [tuple(names[start : start + _CHUNK]) for start in range(0, len(names), _CHUNK)]
    partial.mkdir(parents=True, exist_ok=True)
    files = [partial / f"{number:06d}.npy" for number in range(len(chunks))]
    missing = [number for number, file in enumerate(files) if not file.is_file()]
    progress = _Progress(source, len(chunks), len(chunks) - len(missing))

    def keep(number: int, rows: np.ndarray) -> None:
        beside = files[number].with_suffix(f".{os.getpid()}.new")
        with beside.open("wb") as file:
            np.save(file, rows, allow_pickle=False)
        beside.replace(files[number])
        progress.step()

    processes = min(os.cpu_count() or 1, 16, len(missing))
    if len(missing) < 4 or processes < 2 or current_process().daemon:  # a pool's own process may have no children
        for number in missing:
            keep(number, function(chunks[number]))
    else:
        with ProcessPoolExecutor(processes, get_context("fork")) as pool:  # as the data loader starts its workers
            for number, rows in zip(missing, pool.map(function, [chunks[number] for number in missing]), strict=True):
                keep(number, rows)
    progress.close()
    parts = [np.load(file, allow_pickle=False) for file in files]
    for number, rows in enumerate(parts):
        rows[:, 0] += number * _CHUNK
    return np.concatenate([np.empty((0, 1 + width), np.int32), *parts])


class _Progress:
    """A line on a terminal's stderr for a build that takes longer than two seconds."""

    def __init__(self, source: str, total: int, done: int) -> None:
        self.source, self.total, self.done, self.begun, self.shown = source, total, done, time.monotonic(), False

    def step(self) -> None:
        self.done += 1
        if sys.stderr.isatty() and time.monotonic() - self.begun > 2:
            self.shown = True
            bar = "#" * (30 * self.done // self.total)
            print(f"\r{self.source}: indexing [{bar:<30}] {100 * self.done // self.total} %", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.shown:
            print(file=sys.stderr)


def line_starts(path: Path, begin: int) -> np.ndarray:
    """[n] int64 byte offsets of the lines from ``begin`` on that are not blank."""
    ends, place = [], begin
    with path.open("rb") as file:
        file.seek(begin)
        while block := file.read(2**24):
            ends.append(np.flatnonzero(np.frombuffer(block, np.uint8) == 10) + place + 1)
            place += len(block)
        starts = np.concatenate([[begin], *ends]).astype(np.int64)  # [n + 1], the last may be the end of the file
        starts = np.unique(starts[starts < place])
        keep = np.ones(len(starts), bool)
        for row in np.flatnonzero(np.diff(np.append(starts, place)) < 16):  # a line of data is longer
            file.seek(int(starts[row]))
            keep[row] = bool(file.readline().strip())
    return starts[keep]
