"""Where the values of a large JSON file stand, so that one region is read without holding all of them.

The file is walked as code units, one character for each: places in it are then places in the file, whatever its encoding, and
Python's own decoder, which is written in C, finds the ends of the values. A value with anything but ASCII in it is decoded
once more from its bytes: escapes and raw letters of one text would otherwise be told apart by nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from core.contracts import BadSample, UserError
from plugins.datasets._build import line_starts
from plugins.datasets._index import existing_file
from plugins.datasets._text import check_encoding, checked_bytes, encoding_of, read_text, text_encoding

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()
#: One region's JSON is never longer; the largest masks take some hundred kilobytes.
MAX_VALUE = 64 * 2**20  # bytes
_LINES = 20  # of a file, one of which is an object if it is one of JSON Lines


class Document:
    """A JSON file to be walked. Places are code units: ``span`` gives the bytes of the file, ``where`` words for people."""

    def __init__(self, path: Path, source: str) -> None:
        """Raises ``UserError`` where it is missing, no text or not in the encoding that it seems to have."""
        self.path = existing_file(path, source)
        data, encoding = checked_bytes(path, source)
        self._codec, self._width, self.start = encoding.codec, encoding.width, encoding.start // encoding.width
        self._unit = encoding.unit
        self.text = data.decode("latin1") if self._width == 1 else _units(data, self._unit)
        self._ascii = self.text.isascii()

    def __len__(self) -> int:
        return len(self.text)

    def span(self, begin: int, end: int) -> tuple[int, int]:
        """(offset, length) in bytes of the file."""
        return begin * self._width, (end - begin) * self._width

    def where(self, at: int) -> str:
        """``line 12``, or ``byte 1234`` of a file that is one long line."""
        line = self.text.count("\n", 0, at)
        return f"line {line + 1}" if line else f"byte {at * self._width}"

    def members(self, at: int | None = None) -> Iterator[tuple[str, int, int]]:
        """(key, begin, end) of each member's value of the object that begins at ``at``, or of the whole file. Raises ``ValueError``,
        also for a key that comes twice."""
        whole, text, seen = at is None, self.text, dict[str, int]()
        at = self._expect(self.start if at is None else at, "{")
        while text[at : at + 1] != "}":
            first, (key, at) = at, _DECODER.raw_decode(text, at)
            if not isinstance(key, str):
                raise ValueError(f"a key that is no text at {self.where(first)}")
            key = self._exact(key, first, at)
            if key in seen:
                raise ValueError(f"the key {key[:80]!r} stands twice, at {self.where(seen[key])} and at {self.where(first)}")
            seen[key] = first
            begin = self._expect(at, ":")
            _, end = _DECODER.raw_decode(text, begin)
            yield key, begin, end
            at = self._next(end, "}")
        if whole and (rest := _SPACE.match(text, at + 1).end()) < len(text):  # type: ignore[union-attr]  # matches the empty text
            raise ValueError(f"something follows the end at {self.where(rest)}")

    def elements(self, at: int) -> Iterator[tuple[Any, int, int]]:
        """(value, begin, end) of each element of the array that begins at ``at``. Raises ``ValueError``."""
        text, exact = self.text, self._ascii
        at = self._expect(at, "[")
        while text[at : at + 1] != "]":
            value, end = _DECODER.raw_decode(text, at)
            yield value if exact else self._exact(value, at, end), at, end
            at = self._next(end, "]")

    def values(self) -> Iterator[tuple[Any, int, int]]:
        """(value, begin, end) of each value of a file that holds one after another, on as many lines as they take. Raises
        ``ValueError``."""
        at = self.start
        while (at := _SPACE.match(self.text, at).end()) < len(self.text):  # type: ignore[union-attr]
            begin, (value, at) = at, _DECODER.raw_decode(self.text, at)
            yield self._exact(value, begin, at), begin, at

    def is_array(self, at: int) -> bool:
        return self.text[at : at + 1] == "["

    def _exact(self, value: Any, begin: int, end: int) -> Any:
        """The value that stands there as it is written: anew from the bytes if there is more than ASCII."""
        units = self.text[begin:end]
        if self._ascii or units.isascii():
            return value
        if self._width == 1:
            return _DECODER.decode(units.encode("latin1").decode())
        kinds = np.frombuffer(units.encode("utf-32-le", "surrogatepass"), "<u4")
        return _DECODER.decode(kinds.astype(self._unit).tobytes().decode(self._codec))

    def _expect(self, at: int, character: str) -> int:
        """The place of what follows ``character``, which must come next."""
        at = _SPACE.match(self.text, at).end()  # type: ignore[union-attr]
        if self.text[at : at + 1] != character:
            raise ValueError(f"{character} expected at {self.where(at)}")
        return _SPACE.match(self.text, at + 1).end()  # type: ignore[union-attr]

    def _next(self, at: int, close: str) -> int:
        """The place of the next item, or of the closing bracket."""
        at = _SPACE.match(self.text, at).end()  # type: ignore[union-attr]
        if self.text[at : at + 1] == close:
            return at
        at = self._expect(at, ",")
        if self.text[at : at + 1] == close:
            raise ValueError(f"a comma too many before {self.where(at)}")
        return at


def _units(data: bytes, unit: str) -> str:
    """One character for each code unit of UTF-16 or UTF-32; halves of surrogate pairs stay apart."""
    return np.frombuffer(data, unit).astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def records(path: Path, source: str) -> np.ndarray:
    """[n, 2] int64 offset and length in bytes of each object of a JSON Lines file; also of an array of objects, and of objects on
    several lines. Raises ``UserError`` for what is none of these, and for an encoding that is none of Unicode's."""
    encoding = text_encoding(existing_file(path, source), source)
    if encoding.width == 1 and _has_lines(path, encoding.start, source):
        check_encoding(path.read_bytes(), encoding, path, source)
        starts = line_starts(path, encoding.start)  # a damaged line is met, and counted, where it is read
        return np.stack([starts, np.diff(np.append(starts, path.stat().st_size))], axis=1)
    document = Document(path, source)
    try:
        begin = _SPACE.match(document.text, document.start).end()  # type: ignore[union-attr]
        found = list(document.elements(begin) if document.is_array(begin) else document.values())
    except (ValueError, RecursionError) as fault:
        what = "neither one JSON object a line nor an array of objects"
        raise UserError(f"{source}: {path} is {what} ({fault}).") from fault
    wrong = next((begin for value, begin, _ in found if not isinstance(value, dict)), None)
    if wrong is not None:  # it may be 0
        raise UserError(f"{source}: {path} has something else than an object at {document.where(wrong)}: each region is one.")
    if len(found) == 1:
        _refuse_coco(found[0][0], path, source)
    return np.array([document.span(begin, end) for _, begin, end in found], np.int64).reshape(-1, 2)


def _has_lines(path: Path, start: int, source: str) -> bool:
    """Whether one of the first lines is an object by itself. Raises ``UserError`` for a COCO file, which may be one line."""
    with path.open("rb") as file:
        file.seek(start)
        for _ in range(_LINES):
            try:
                value = json.loads(file.readline(MAX_VALUE).strip().rstrip(b","))
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                _refuse_coco(value, path, source)
                return True
    return False


def _refuse_coco(value: dict[str, Any], path: Path, source: str) -> None:
    if {"images", "annotations"} <= value.keys():
        raise UserError(f"{source}: {path} is a COCO file: use coco_regions.")


def read_object(path: Path, begin: int, length: int, sample: str) -> dict[str, Any]:
    """The object that stands at these bytes of the file. Raises ``BadSample``, also for a value of another kind."""
    try:
        if length > MAX_VALUE:
            raise ValueError(f"{length} bytes long")
        with path.open("rb") as file:
            file.seek(begin)
            value = parsed(file.read(length))
    except (OSError, ValueError, RecursionError) as fault:
        raise BadSample("damaged annotation", sample, f"{path}: {fault}") from fault
    if not isinstance(value, dict):
        raise BadSample("damaged annotation", sample, f"{path}: no object at byte {begin}")
    return value


def read_json(path: Path, source: str) -> Any:
    """The content of a small file. Raises ``UserError`` where it is missing or no JSON."""
    text = read_text(existing_file(path, source), source)
    try:
        return json.loads(text, object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError) as fault:
        raise UserError(f"{source}: {path} cannot be read as JSON ({fault}).") from fault


def parsed(data: bytes) -> Any:
    """The value of some bytes of a file, in UTF-8, UTF-16 or UTF-32; a comma behind it, as in an array, is none of it. Raises
    ``ValueError``, also for a key that stands twice."""
    text = data.decode(encoding_of(data).codec).strip()
    return json.loads(text.removesuffix(","), object_pairs_hook=_no_key_twice)


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one object")
    return found
