"""REFER's ``refs(*.p)``: a pickle of plain lists, dicts, strings and numbers, read without trusting it.

A pickle is a program. Its opcodes are walked first and only those that build plain containers are let through; the
unpickler that then runs refuses every global as a second lock. Written by Python 2, so byte strings are decoded.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, NoReturn

from core.contracts import UserError

MAX_BYTES = 512 * 2**20
_PLAIN = {
    *("MARK", "STOP", "PROTO", "FRAME", "POP", "NONE", "NEWTRUE", "NEWFALSE"),
    *("INT", "LONG", "LONG1", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("LIST", "EMPTY_LIST", "APPEND", "APPENDS", "DICT", "EMPTY_DICT", "SETITEM", "SETITEMS"),
    *("TUPLE", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
}


class _NoGlobals(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def load_refs(path: Path, source: str) -> list[dict[str, Any]]:
    """The refs, in the file's order. Raises ``UserError`` for a damaged file or one that is more than plain data."""
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{source}: {path} is larger than {MAX_BYTES >> 20} MiB, which no file of referring expressions is.")
    data = path.read_bytes()
    try:
        _check(data)
        refs = _load(data, "utf-8")
    except UnicodeDecodeError:
        refs = _load(data, "latin1")  # every byte string is valid latin1
    except (pickle.UnpicklingError, ValueError, IndexError, TypeError, EOFError, KeyError, RecursionError) as fault:
        raise UserError(f"{source}: {path} is damaged or holds more than plain lists and dicts ({fault}); fetch it again.") from fault
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise UserError(f"{source}: {path} is no list of refs; check that it is REFER's file.")
    return refs


def _load(data: bytes, encoding: str) -> Any:
    return _NoGlobals(io.BytesIO(data), encoding=encoding).load()


def _check(data: bytes) -> None:
    for opcode, argument, position in pickletools.genops(data):
        if opcode.name not in _PLAIN:
            raise pickle.UnpicklingError(f"opcode {opcode.name} at byte {position}")
        # the memo is an array in C: an absurd index would allocate gigabytes
        if "PUT" in opcode.name and isinstance(argument, int) and not 0 <= argument <= len(data):
            raise pickle.UnpicklingError(f"memo index {argument} at byte {position}")
