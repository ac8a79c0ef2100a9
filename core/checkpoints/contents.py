"""What lies in a file or a model's folder: a hash of each file that counts, and what tells later whether the file is still the same.

Every byte is hashed, once: a part of the bytes, or size and time of change, would take another base for the same one. Later a file
counts as unchanged, and is not read, while its size, its inode and both its times are those of then. The time of the inode's change
cannot be set by a program; where it was so recent that a change within the clock's step could have gone unseen, the file is read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from core.checkpoints.hashes import sha256
from core.contracts import UserError

WEIGHTS = (".safetensors", ".bin", ".pth", ".pt")
BESIDE = (".json", ".model", ".txt", ".jinja", ".tiktoken")  # configuration and tokenizer
INDEX, ALONE = "model.safetensors.index.json", "model.safetensors"
SETTLED_S = 2.0  # older changes cannot hide behind a clock's step
FEW = 20  # files that are kept one by one; more of them as one
READERS = 4  # threads; hashing releases the interpreter's lock

#: name -> {"sha256", "bytes", "state"}; or one entry "N files".
Contents = dict[str, dict[str, Any]]


def counted(path: Path) -> dict[str, Path]:
    """The files that decide what ``path`` is, by name. A file is one by itself, and its name does not count.

    Of a model's folder: configuration, tokenizer and weights. Where an index or ``model.safetensors`` says which weights are read,
    other files of weights do not count. Of another folder with such files below it: all these.
    """
    if not path.is_dir():
        return {"": path}
    top = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    if any(file.name == "config.json" for file in top):
        weights, named = [file for file in top if file.suffix in WEIGHTS], _named_weights(path)
        chosen = [file for file in weights if file.name in named] or weights
        return {file.name: file for file in [*(file for file in top if file.suffix in BESIDE), *chosen]}
    below = sorted(file for file in path.rglob("*") if file.suffix in (*WEIGHTS, *BESIDE) and file.is_file())
    return {file.relative_to(path).as_posix(): file for file in below}


def _named_weights(folder: Path) -> set[str]:
    names = {ALONE} if (folder / ALONE).is_file() else set[str]()
    if (folder / INDEX).is_file():
        try:
            names |= set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return names  # whoever loads it says what is wrong with it; here all weights count
    return names


def contents(files: Mapping[str, Path], known: Mapping[str, Mapping[str, Any]] | None = None) -> Contents:
    """Hashes of ``files``; those that are unchanged since ``known`` was made are not read. Raises ``UserError`` for one that cannot be."""
    known = known or {}
    try:
        if len(files) > FEW:
            name, state = f"{len(files)} files", _together(files.values())
            same = state is not None and known.get(name, {}).get("state") == state
            digest = known[name]["sha256"] if same else _digest(sorted(_hashes(files).items()))
            return {name: {"sha256": digest, "bytes": sum(file.stat().st_size for file in files.values()), "state": state}}
        states = {name: _state(file) for name, file in files.items()}
        fresh = {name: file for name, file in files.items() if states[name] is None or known.get(name, {}).get("state") != states[name]}
        found = _hashes(fresh)
        return {
            name: {"sha256": found.get(name) or known[name]["sha256"], "bytes": file.stat().st_size, "state": states[name]}
            for name, file in files.items()
        }
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None


def differences(then: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How the contents differ, a part of a sentence for each file."""
    found = [f"{name} is new" if name else "it is new" for name in now if name not in then]
    found += [f"{name} is gone" if name else "it is gone" for name in then if name not in now]
    for name in (name for name in then if name in now and then[name]["sha256"] != now[name]["sha256"]):
        was, is_ = (f"sha256 {one[name]['sha256'][:12]}, {one[name]['bytes']:,} bytes" for one in (then, now))
        found.append(f"{name + ' ' if name else ''}differs (was {was}; is {is_})")
    return found


def _hashes(files: Mapping[str, Path]) -> dict[str, str]:
    with ThreadPoolExecutor(READERS) as pool:
        return dict(zip(files, pool.map(sha256, files.values()), strict=True))


def _state(file: Path) -> list[int] | None:
    """None where a later change could look the same."""
    found = os.stat(file)
    settled = max(found.st_mtime, found.st_ctime) < time.time() - SETTLED_S
    return [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns] if settled else None


def _together(files: Iterable[Path]) -> str | None:
    states = [_state(file) for file in files]
    return None if None in states else _digest(states)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
