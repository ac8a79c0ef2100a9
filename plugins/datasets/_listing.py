"""The files of a data set that is a tree of folders, linked folders among them; listed once and kept until a folder changes."""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path

from core.contracts import UserError
from plugins.datasets._cache import Index, cached, pack, place, stamp_of

_SETTLED = 2.0  # seconds after which a folder's modification time shows a later change


def listing(source: str, root: Path, prefix: str, suffix: str) -> Index:
    """The files below ``root`` whose names begin and end so: texts ``name``, relative to it, with slashes, sorted.

    Linked folders are followed, each real folder once: a link that leads back to where it stands adds nothing. Listed again only when a
    folder's modification time says that a file has come or gone. Raises ``UserError`` for a folder that cannot be listed.
    """
    source, options = f"{source}-files", {"root": root.resolve(), "prefix": prefix, "suffix": suffix, "links": True}
    try:
        known = Index(place(source, options))
        if known.stamp == stamp_of(root / known.text("folder", row) for row in range(known.count("folder"))):
            return known
    except (OSError, ValueError, KeyError, TypeError):
        pass  # absent, damaged, or a folder is gone: made anew
    begun = time.time()
    folders, names = _walk(source, root, prefix, suffix)
    stamp = stamp_of(root / folder for folder in folders)
    if any((root / folder).stat().st_mtime > begun - _SETTLED for folder in folders):
        stamp += f" {time.time_ns()}"  # matches no later stamp: a file added meanwhile, within the clock's resolution, would go unnoticed
    return cached(source, options, stamp, lambda _: pack("name", sorted(names)) | pack("folder", folders))


def _walk(source: str, root: Path, prefix: str, suffix: str) -> tuple[list[str], list[str]]:
    """(folders, files), relative to ``root``. Folders that are no links come first: a link to one of them adds nothing."""
    folders, names, seen = [], [], set[tuple[int, int]]()
    plain, linked = deque(["."]), deque[str]()
    while plain or linked:
        folder = plain.popleft() if plain else linked.popleft()
        try:
            state = os.stat(root / folder)
            if (state.st_dev, state.st_ino) in seen:
                continue
            seen.add((state.st_dev, state.st_ino))
            with os.scandir(root / folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as fault:
            raise UserError(f"{source.removesuffix('-files')}: the folder {root / folder} cannot be listed ({fault.strerror}).") from fault
        folders.append(folder)
        before = "" if folder == "." else f"{folder}/"
        for entry in entries:
            if entry.is_dir():
                (linked if entry.is_symlink() else plain).append(before + entry.name)
            elif entry.name.startswith(prefix) and entry.name.endswith(suffix):
                names.append(before + entry.name)
            elif entry.is_symlink() and not os.path.exists(entry.path) and not os.path.splitext(entry.name)[1]:
                raise UserError(f"{source.removesuffix('-files')}: {entry.path} links to {os.readlink(entry.path)}, which is not there.")
    return folders, names
