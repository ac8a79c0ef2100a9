"""Reading members of plain tar files by name: headers are walked once per file, no handle is kept open.

Without open handles a reader survives fork and pickling; the positions are remembered per process and forgotten when
the file's size or modification time changes.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

from core.contracts import BadSample

#: A member larger than this is no picture of these data sets.
MAX_MEMBER = 256 * 2**20  # bytes

_positions: dict[Path, tuple[tuple[int, int], dict[str, tuple[int, int]]]] = {}


def members(path: Path, sample: str) -> dict[str, tuple[int, int]]:
    """name -> (offset, size) in bytes of the regular files in an uncompressed tar. Raises ``BadSample``."""
    try:
        state = path.stat()
        stamp = (state.st_size, state.st_mtime_ns)
        if path not in _positions or _positions[path][0] != stamp:
            with tarfile.open(path, "r:") as tar:
                found = {entry.name.removeprefix("./"): (entry.offset_data, entry.size) for entry in tar if entry.isreg()}
            _positions[path] = (stamp, found)
    except FileNotFoundError as fault:
        raise BadSample("missing tar", sample, str(path)) from fault
    except (OSError, tarfile.TarError) as fault:
        raise BadSample("damaged tar", sample, f"{path}: {fault}") from fault
    return _positions[path][1]


def read(path: Path, name: str, sample: str) -> bytes:
    """The bytes of one member. Raises ``BadSample`` where the tar is damaged or the member absent or over-large."""
    position = members(path, sample).get(name)
    if position is None:
        raise BadSample("missing member", sample, f"{name} in {path}")
    offset, size = position
    if size > MAX_MEMBER:
        raise BadSample("member too large", sample, f"{name} in {path}: {size} bytes")
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)
