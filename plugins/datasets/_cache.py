"""Indices kept on disk and memory-mapped: numpy arrays only, so that a million regions cost no Python objects.

An index is one file under ``$DUALLOOP_CACHE`` (default ``~/.cache/dualloop``). It is used only while what it was made
from is unchanged: name, size and modification time of each file go into its stamp. All workers map the same pages.
A cache that cannot be written, is full or vanishes is one sentence (``keeping``); where its file system has no locks or no
mapping, it works without.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import numpy as np

from core.contracts import UserError

_MAGIC = b"dualloop index 2\n"


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
            name: _mapped(path, np.dtype(kind), begin + offset, tuple(shape)) if all(shape) else np.empty(shape, kind)
            for name, (kind, shape, offset) in header["arrays"].items()
        }

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __reduce__(self) -> tuple[Callable[[Path], Index], tuple[Path]]:
        return _open_again, (self.path,)

    def count(self, name: str) -> int:
        """How many texts ``pack`` has stored under this name."""
        return len(self._arrays[f"{name}.ends"])

    def text(self, name: str, row: int) -> str:
        """One of them."""
        ends = self._arrays[f"{name}.ends"]
        begin = int(ends[row - 1]) if row else 0
        return bytes(self._arrays[name][begin : int(ends[row])]).decode("utf-8", "surrogatepass")


def _mapped(path: Path, kind: np.dtype, begin: int, shape: tuple[int, ...]) -> np.ndarray:
    """The file's pages, or a copy of them on a file system that maps none."""
    try:
        return np.memmap(path, kind, "r", begin, shape)
    except OSError as fault:
        if fault.errno not in (errno.ENODEV, errno.ENOSYS, *_UNSUPPORTED):
            raise
        return np.fromfile(path, kind, int(np.prod(shape)), offset=begin).reshape(shape)


def _open_again(path: Path) -> Index:
    """In another process. Raises ``UserError`` where the cache has been cleared meanwhile."""
    try:
        return Index(path)
    except (OSError, ValueError) as fault:
        raise UserError(
            f"the index {path} is gone or damaged ({fault}): the cache was cleared while it was in use; start again."
        ) from fault


def narrow(values: np.ndarray) -> np.ndarray:
    """Whole numbers as int32 where all of them fit."""
    return values.astype(np.int32) if not values.size or -(2**31) <= values.min() <= values.max() < 2**31 else values


def pack(name: str, texts: Iterable[str]) -> dict[str, np.ndarray]:
    """Texts as two arrays: their bytes [c] uint8 and where each ends [n], uint32 where that is enough, else int64."""
    data = [text.encode("utf-8", "surrogatepass") for text in texts]
    letters = np.frombuffer(b"".join(data), np.uint8)
    ends = np.cumsum([len(one) for one in data], dtype=np.int64)
    return {name: letters, f"{name}.ends": ends.astype(np.uint32) if len(letters) < 2**32 else ends}


def cache_folder() -> Path:
    """Where indices are kept."""
    given = os.environ.get("DUALLOOP_CACHE")
    try:
        return Path(given).expanduser() if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dualloop"
    except RuntimeError as fault:  # no HOME and no entry of this user
        raise UserError("there is no home folder to keep indices in; set DUALLOOP_CACHE to a folder.") from fault


def stamp_of(files: Iterable[Path]) -> str:
    """A digest of path, size and modification time of each file. Raises ``OSError`` where one is missing."""
    digest = hashlib.sha256()
    for file in files:
        state = file.stat()
        digest.update(f"{file}\0{state.st_size}\0{state.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def place(source: str, options: Mapping[str, Any]) -> Path:
    """Where the index of a source with these options is kept."""
    key = hashlib.sha256(json.dumps([source, {k: str(v) for k, v in options.items()}], sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder() / f"{source}-{key}.index"


def cached(source: str, options: Mapping[str, Any], stamp: str, build: Callable[[Path], Mapping[str, np.ndarray]]) -> Index:
    """The index of a source with these options; ``build(partial folder)`` is called where there is no current one.

    A file that is damaged or was made from other files is made anew. Raises ``UserError`` where it cannot be written.
    """
    path = place(source, options)
    if found := _current(path, stamp):
        return found
    with keeping(source):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("w")
    with lock:
        locked = _lock(lock)  # released with the file; ranks of one run wait for the first
        if found := _current(path, stamp):
            return found
        partial = path.with_name(f"{path.stem}-{stamp[:16] if locked else uuid4().hex}.part")
        for other in path.parent.glob(f"{path.stem}-*.part") if locked else ():  # begun from files that have changed since
            if other != partial:
                shutil.rmtree(other, ignore_errors=True)
        arrays = build(partial)
        with keeping(source):
            _write(path, stamp, arrays)
            shutil.rmtree(partial, ignore_errors=True)
            return Index(path)


#: What file systems answer that have no locks (Lustre without flock, some NFS and FUSE) or cannot map a file.
_UNSUPPORTED = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


def _lock(file: IO[Any]) -> bool:
    """Waits for the lock. False where there are none: each process then builds for itself, and the last one's file stays."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as fault:
        if fault.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EIO, errno.EPERM, errno.EACCES, *_UNSUPPORTED):
            raise
        return False
    return True


@contextmanager
def keeping(source: str) -> Iterator[None]:
    """Around everything that reads or writes the cache's own files: an ``OSError`` there becomes a ``UserError`` that names the cache."""
    try:
        yield
    except OSError as fault:
        folder = cache_folder()
        full = "; it is full: make room there, or" if fault.errno in (errno.ENOSPC, errno.EDQUOT) else ":"
        why = fault.strerror or fault
        raise UserError(f"{source}: no index can be kept in {folder} ({why}){full} set DUALLOOP_CACHE to another folder.") from fault


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
    beside = path.with_name(f".{path.name}.{uuid4().hex}.new")  # other machines may share the folder: a process id is not enough
    try:
        with beside.open("wb") as file:
            header = json.dumps({"stamp": stamp, "bytes": offset, "arrays": places}).encode()
            head = _MAGIC + header
            file.write(head + b" " * (-(len(head) + 1) % 64) + b"\n")  # arrays begin at a multiple of 64 bytes
            for array in arrays.values():
                file.write(np.ascontiguousarray(array).tobytes())
                file.write(bytes(-array.nbytes % 64))
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
