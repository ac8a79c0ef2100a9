"""Reading members of plain tar files by name: headers are walked once, their places kept in an index on disk.

No handle is kept open, so a reader survives fork and pickling. An index holds for one size and modification time of its tar.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from core.contracts import BadSample
from plugins.datasets._cache import Index, cached, stamp_of

#: A member larger than this is no picture of these data sets.
MAX_MEMBER = 256 * 2**20  # bytes
_MAX_NAME = 255  # bytes; longer names are left out

_open: dict[Path, tuple[tuple[int, int], Members]] = {}


class Members:
    """Names, offsets and sizes of a tar's regular files, sorted by name."""

    def __init__(self, index: Index) -> None:
        self._names, self._places = index["names"], index["places"]  # [n] bytes, [n, 2] int64

    def find(self, name: str) -> tuple[int, int] | None:
        """(offset, size) in bytes."""
        wanted = name.encode("utf-8", "replace")
        row = int(np.searchsorted(self._names, wanted)) if len(self._names) else 0
        if row < len(self._names) and self._names[row] == wanted:
            return int(self._places[row, 0]), int(self._places[row, 1])
        return None

    def all(self) -> Iterator[tuple[str, int, int]]:
        """(name, offset, size) of each, in order."""
        for name, (offset, size) in zip(self._names, self._places.tolist(), strict=True):
            yield name.decode("utf-8", "replace"), offset, size

    def beginning(self, start: str) -> Iterator[str]:
        """Names that begin with ``start``, in order."""
        wanted = start.encode("utf-8", "replace")
        row = int(np.searchsorted(self._names, wanted)) if len(self._names) else 0
        while row < len(self._names) and self._names[row].startswith(wanted):
            yield self._names[row].decode("utf-8", "replace")
            row += 1


def members(path: Path, sample: str) -> Members:
    """What an uncompressed tar holds. Links, devices and names that lead out of a folder are left out. Raises ``BadSample``."""
    try:
        state = path.stat()
        stamp = (state.st_size, state.st_mtime_ns)
        if path not in _open or _open[path][0] != stamp:
            index = cached("tar", {"path": path.resolve()}, stamp_of([path]), lambda _: _places(path))
            _open[path] = (stamp, Members(index))
    except FileNotFoundError as fault:
        raise BadSample("missing tar", sample, str(path)) from fault
    except (OSError, ValueError, tarfile.TarError) as fault:  # ValueError: a name that no file can have
        raise BadSample("damaged tar", sample, f"{path}: {fault}") from fault
    return _open[path][1]


def _places(path: Path) -> dict[str, np.ndarray]:
    found: dict[bytes, tuple[int, int]] = {}
    with tarfile.open(path, "r:") as tar:
        for entry in tar:
            name = PurePosixPath(entry.name)
            data = entry.name.removeprefix("./").encode("utf-8", "replace")
            if entry.isreg() and not name.is_absolute() and ".." not in name.parts and len(data) <= _MAX_NAME:
                found[data] = (entry.offset_data, entry.size)
    names = sorted(found)
    return {"names": np.array(names, np.bytes_), "places": np.array([found[name] for name in names], np.int64).reshape(-1, 2)}


def read(path: Path, name: str, sample: str) -> bytes:
    """The bytes of one member. Raises ``BadSample`` where the tar is damaged or the member absent or over-large."""
    position = members(path, sample).find(name)
    if position is None:
        raise BadSample("missing member", sample, f"{name} in {path}")
    offset, size = position
    if size > MAX_MEMBER:
        raise BadSample("member too large", sample, f"{name} in {path}: {size} bytes")
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)
