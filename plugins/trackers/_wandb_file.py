"""W&B's offline files, read and written record by record: a run that goes on takes back what it logged after its last checkpoint.

The layout is LevelDB's log (github.com/google/leveldb, doc/log_format.md) behind seven bytes of W&B's own, with zlib's CRC: blocks of
32 KiB, each piece of a record with its checksum, length and kind. A record is a ``Record`` of ``wandb.proto.wandb_internal_pb2``.
"""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

#: In a row: the update of the checkpoint that it tells the results of.
RESULT = "evaluation/checkpoint"
HEAD = struct.Struct("<4sHB")
MAGIC = HEAD.pack(b":W&B", 0xBEE1, 0)
PIECE = struct.Struct("<IHB")  # checksum, length, kind
BLOCK = 32768
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def drop_after(file: Path, update: int) -> int:
    """Takes the rows of updates past ``update`` out of a file, and the summaries made of them; how many rows went.

    Rows with ``RESULT`` stay: what ``core.evaluate`` measured of a checkpoint is not measured again.
    The file is complete or unchanged. One that is no W&B file of a known layout, or empty, stays as it is, as does what follows a damage.
    """
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2  # its classes are made when it is imported
    kept: list[bytes] = []
    dropped = 0
    for data in records(file):
        record = messages.Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "history" and _step(record.history) > update and not _result(record.history):
            dropped += 1
        elif not (dropped and kind == "summary"):
            kept.append(data)
    if dropped:
        beside = file.with_name(file.name + ".new")
        with beside.open("wb") as stream:
            stream.write(written(kept))
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(file)
    return dropped


def last_step(file: Path) -> int:
    """The greatest step of a file's history; -1 without one."""
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2
    found = (messages.Record.FromString(data) for data in records(file))
    return max((_step(record.history) for record in found if record.WhichOneof("record_type") == "history"), default=-1)


def show_beside(file: Path, folder: Path) -> None:
    """A link to an offline file in a W&B folder of several runs, which ``wandb leet`` shows as one; without it a warning."""
    place = folder / file.parent.name
    link = place / file.name
    try:
        place.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(file.resolve(), place.resolve()))
    except OSError as error:  # a file system without links: the run itself is tracked all the same
        warnings.warn(f"{link} cannot be made ({error.strerror or error}): wandb leet {folder} leaves this run out", stacklevel=2)


def _result(history: Any) -> bool:
    return any(RESULT in (item.key, "/".join(item.nested_key)) for item in history.item)


def _step(history: Any) -> int:
    if history.HasField("step"):
        return int(history.step.num)
    found = [item.value_json for item in history.item if item.key == "_step" or list(item.nested_key) == ["_step"]]
    return int(found[0]) if found else -1


def records(file: Path) -> Iterator[bytes]:
    """The whole records, up to the first that was cut or damaged."""
    data = file.read_bytes()
    if not data.startswith(MAGIC):
        return
    place, parts = len(MAGIC), list[bytes]()
    while place + PIECE.size <= len(data):
        if BLOCK - place % BLOCK < PIECE.size:  # too little room for a piece: filled up
            place += BLOCK - place % BLOCK
            continue
        checksum, length, kind = PIECE.unpack_from(data, place)
        piece = data[place + PIECE.size : place + PIECE.size + length]
        if kind not in (WHOLE, FIRST, MIDDLE, LAST) or len(piece) < length or zlib.crc32(bytes([kind]) + piece) != checksum:
            return
        place += PIECE.size + length
        if kind in (WHOLE, FIRST):
            parts = []
        parts.append(piece)
        if kind in (WHOLE, LAST):
            yield b"".join(parts)


def written(given: Iterable[bytes]) -> bytes:
    """A file of these records."""
    out = bytearray(MAGIC)
    for record in given:
        rest, begun = record, False
        while True:
            room = BLOCK - len(out) % BLOCK
            if room < PIECE.size:
                out += bytes(room)
                room = BLOCK
            piece, rest = rest[: room - PIECE.size], rest[room - PIECE.size :]
            kind = (LAST if begun else WHOLE) if not rest else (MIDDLE if begun else FIRST)
            out += PIECE.pack(zlib.crc32(bytes([kind]) + piece), len(piece), kind) + piece
            begun = True
            if not rest:
                break
    return bytes(out)
