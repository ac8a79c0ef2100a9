"""Where the values of a large JSON file stand, so that one region is read without holding all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.contracts import BadSample, UserError
from plugins.datasets._index import existing_file

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()
#: One region's JSON is never longer; the largest masks take some hundred kilobytes.
MAX_VALUE = 64 * 2**20  # bytes


def read_text(path: Path, source: str) -> str:
    """The file with one character for each byte, so that places in it are byte offsets. Raises ``UserError``."""
    try:
        return existing_file(path, source).read_bytes().decode("latin1")
    except OSError as fault:
        raise UserError(f"{source}: {path} cannot be read ({fault}).") from fault


def utf8(text: str) -> str:
    """A text out of ``read_text`` as what it says."""
    return text.encode("latin1").decode("utf-8", "replace") if text.isascii() or max(text) < "\u0100" else text


def members(text: str, at: int = 0) -> Iterator[tuple[str, int, int]]:
    """(key, begin, end) of each member's value of the object that begins at ``at``. Raises ``ValueError``."""
    at = _expect(text, at, "{")
    while text[at : at + 1] != "}":
        key, at = _DECODER.raw_decode(text, at)
        if not isinstance(key, str):
            raise ValueError(f"a key that is no text before byte {at}")
        begin = _expect(text, at, ":")
        _, end = _DECODER.raw_decode(text, begin)
        yield utf8(key), begin, end
        at = _next(text, end, "}")


def elements(text: str, at: int) -> Iterator[tuple[Any, int, int]]:
    """(value, begin, end) of each element of the array that begins at ``at``. Raises ``ValueError``."""
    at = _expect(text, at, "[")
    while text[at : at + 1] != "]":
        value, end = _DECODER.raw_decode(text, at)
        yield value, at, end
        at = _next(text, end, "]")


def read_object(path: Path, begin: int, length: int, sample: str) -> dict[str, Any]:
    """The object that stands at these bytes of the file. Raises ``BadSample``, also for a value of another kind."""
    try:
        if length > MAX_VALUE:
            raise ValueError(f"{length} bytes long")
        with path.open("rb") as file:
            file.seek(begin)
            value = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError) as fault:
        raise BadSample("damaged annotation", sample, f"{path}: {fault}") from fault
    if not isinstance(value, dict):
        raise BadSample("damaged annotation", sample, f"{path}: no object at byte {begin}")
    return value


def _expect(text: str, at: int, character: str) -> int:
    """The place of what follows ``character``, which must come next."""
    at = _SPACE.match(text, at).end()  # type: ignore[union-attr]  # matches the empty text too
    if text[at : at + 1] != character:
        raise ValueError(f"{character} expected at byte {at}")
    return _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]


def _next(text: str, at: int, close: str) -> int:
    """The place of the next item, or of the closing bracket."""
    at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
    if text[at : at + 1] == close:
        return at
    at = _expect(text, at, ",")
    if text[at : at + 1] == close:
        raise ValueError(f"a comma too many before byte {at}")
    return at
