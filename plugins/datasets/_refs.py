"""REFER's ``refs(*.p)``: a pickle of plain lists, dicts, strings and numbers, read without trusting it.

A pickle is a program for a small machine. The machine here knows only the opcodes that build plain containers, so
nothing can be imported or called. It is the standard library's Python implementation rather than the one in C: its
memo is a dict, where the other's is an array that a single opcode can make gigabytes long. Written by Python 2, so
byte strings are decoded.
"""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from core.contracts import UserError

MAX_BYTES = 512 * 2**20
_PLAIN = (
    *("MARK", "STOP", "PROTO", "FRAME", "POP", "NONE", "NEWTRUE", "NEWFALSE"),
    *("INT", "LONG", "LONG1", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("LIST", "EMPTY_LIST", "APPEND", "APPENDS", "DICT", "EMPTY_DICT", "SETITEM", "SETITEMS"),
    *("TUPLE", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
)
_DAMAGE = (pickle.UnpicklingError, ValueError, LookupError, TypeError, AttributeError, EOFError, struct.error)


class _PlainUnpickler(pickle._Unpickler):
    dispatch: ClassVar[dict[int, Any]] = {
        code: step for code, step in pickle._Unpickler.dispatch.items() if code in {getattr(pickle, name)[0] for name in _PLAIN}
    }

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")  # no opcode above leads here; a second lock


def load_refs(path: Path, source: str) -> list[dict[str, Any]]:
    """The refs, in the file's order. Raises ``UserError`` for a damaged file or one that is more than plain data."""
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{source}: {path} is larger than {MAX_BYTES >> 20} MiB, which no file of referring expressions is.")
    data = path.read_bytes()
    try:
        try:
            refs = _PlainUnpickler(io.BytesIO(data), encoding="utf-8").load()
        except UnicodeDecodeError:
            refs = _PlainUnpickler(io.BytesIO(data), encoding="latin1").load()  # any byte string is valid latin1
    except _DAMAGE as fault:
        raise UserError(f"{source}: {path} is damaged or holds more than plain lists and dicts ({fault}); fetch it again.") from fault
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise UserError(f"{source}: {path} is no list of refs; check that it is REFER's file.")
    return refs
