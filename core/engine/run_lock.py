"""One command at a time trains a run: a lock in its folder that goes with its process, however that ends.

The lock is the system's (a POSIX record lock on ``run.lock``; loaders' workers do not inherit it, and it goes over NFS). What stands in
the file is for whoever finds it taken. Where the file system has no locks, a file ``run.pid`` names the process: its host, its number
and when it was started, by which a later process of the same number is told apart.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from core.contracts import UserError

FILE, WITHOUT_LOCKS = "run.lock", "run.pid"
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
_TAKEN = {errno.EACCES, errno.EAGAIN}
_JUST_MADE_S = 60.0  # so long a file without content is taken for one that is being written
_held: set[tuple[int, int]] = set()  # (device, inode) of the folders that this process trains: its own locks do not stop it


@contextmanager
def training(folder: Path) -> Iterator[str | None]:
    """While it lasts, no other command trains the run in ``folder``. Gives a sentence where the file system has no locks, else None.

    Raises ``UserError``, with who trains it, where another command does, and where the folder does not take the lock's file.
    """
    place = folder.stat()
    if (place.st_dev, place.st_ino) in _held:
        raise UserError(_busy(folder, _me()))
    try:
        stream = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{folder / FILE} cannot be written ({error.strerror}): a run is locked while it trains") from None
    without = False
    try:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                raise UserError(_busy(folder, _content(folder / FILE))) from None
            if error.errno not in _NO_LOCKS:
                raise
            without = True
            _claim(folder)
        else:
            os.ftruncate(stream, 0)
            os.write(stream, json.dumps(_me()).encode())
        _held.add((place.st_dev, place.st_ino))
        try:
            yield (
                f"{folder}: the file system has no locks; {WITHOUT_LOCKS} says which process trains the run. "
                f"Where its machine fails, remove that file before you go on"
                if without
                else None
            )
        finally:
            _held.discard((place.st_dev, place.st_ino))
            with suppress(OSError):  # the folder may be gone
                if without:
                    (folder / WITHOUT_LOCKS).unlink()
                else:
                    os.ftruncate(stream, 0)
    finally:
        os.close(stream)  # releases the lock; no other descriptor of this file is ever opened by the process that holds it


def _me() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": os.uname().nodename, "since": time.strftime("%Y-%m-%d %H:%M:%S"), "started": _started(os.getpid())}


def _busy(folder: Path, who: dict[str, Any]) -> str:
    known = f"process {who['pid']} on {who['host']} trains it since {who['since']}" if "pid" in who else "another process trains it"
    return f"{folder}: {known}. Nothing was changed; wait until it ends, or end it (SIGTERM lets it save) and then --resume"


def _content(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # just being written, or never
        return {}
    return found if isinstance(found, dict) and {"pid", "host", "since"} <= found.keys() else {}


def _started(pid: int) -> str | None:
    """What tells a process from a later one of the same number, also after the machine was started anew; None where it is not there.

    proc(5): field 22 of ``stat``, in clock ticks since the machine was started; the name in brackets may hold spaces.
    """
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text(encoding='utf-8').strip()} {ticks}"
    except (OSError, IndexError):
        return None


def _claim(folder: Path) -> None:
    """Makes ``run.pid`` that of this process. Raises ``UserError`` where that of another process stands there, unless that one is dead."""
    file = folder / WITHOUT_LOCKS
    for _ in range(3):
        try:
            stream = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            _require_dead(folder, file)
            with suppress(FileNotFoundError):  # another command has taken it away
                file.unlink()
            continue
        with os.fdopen(stream, "w", encoding="utf-8") as text:
            text.write(json.dumps(_me()))
        return
    raise UserError(_busy(folder, _content(file)))


def _require_dead(folder: Path, file: Path) -> None:
    who = _content(file)
    try:
        old = time.time() - file.stat().st_mtime > _JUST_MADE_S
    except FileNotFoundError:
        return
    if not who and old:
        return
    here = who.get("host") == os.uname().nodename
    if not who or not here:
        raise UserError(f"{_busy(folder, who)}. If that process is gone, remove {file}: this file system has no locks that would tell")
    started = _started(who["pid"])
    if started is not None and started == who.get("started"):
        raise UserError(_busy(folder, who))
