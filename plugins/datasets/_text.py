"""Text files as people have them: byte order marks, UTF-8, UTF-16, UTF-32. Everything else is refused, never replaced.

A file of another encoding, or one that is no text at all (packed, a web page, a pointer), is named for what it is.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from core.contracts import BadSample, UserError

#: byte order mark -> codec, the longer ones first: UTF-32's begins with UTF-16's.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_WIDTHS = {"utf-8": 1, "utf-16-le": 2, "utf-16-be": 2, "utf-32-le": 4, "utf-32-be": 4}
#: What a file that was meant to be text may be instead: its first bytes, and what to do.
_OTHERS = (
    (b"\x1f\x8b", "is packed with gzip: unpack it"),
    (b"PK\x03\x04", "is a zip archive: unpack it"),
    (b"BZh", "is packed with bzip2: unpack it"),
    (b"\xfd7zXZ", "is packed with xz: unpack it"),
    (b"\x28\xb5\x2f\xfd", "is packed with zstd: unpack it"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself: run git lfs pull"),
    (b"<!DOCTYPE html", "is a web page, not the file itself: download it again, signed in if need be"),
    (b"<html", "is a web page, not the file itself: download it again, signed in if need be"),
)
#: Encodings that a file may be in, tried in this order for the hint; whatever can be decoded is only a guess.
_ASIAN = {"gb18030": "GB18030 (Chinese)", "shift_jis": "Shift JIS", "euc_kr": "EUC-KR"}
_BLOCK = 2**24  # bytes


@dataclass(frozen=True)
class Encoding:
    """How a text file is written."""

    codec: str  # of utf-8, utf-16-le, ...
    width: int  # bytes of a code unit
    start: int  # bytes of the byte order mark

    @property
    def unit(self) -> str:
        """numpy's name of a code unit."""
        return f"{'>' if self.codec.endswith('be') else '<'}u{self.width}"


def encoding_of(head: bytes) -> Encoding:
    """By the byte order mark, else by where the zeros of the first two characters stand, which are ASCII in JSON and CSV."""
    for mark, codec in _MARKS.items():
        if head.startswith(mark):
            return Encoding(codec, _WIDTHS[codec], len(mark))
    zeros = tuple(byte == 0 for byte in head[:4])
    known: dict[tuple[bool, ...], str] = {
        (False, True, True, True): "utf-32-le",
        (True, True, True, False): "utf-32-be",
        (False, True, False, True): "utf-16-le",
        (True, False, True, False): "utf-16-be",
    }
    codec = known.get(zeros, "utf-8")
    return Encoding(codec, _WIDTHS[codec], 0)


def text_encoding(path: Path, source: str) -> Encoding:
    """How the file is written, from its first bytes. Raises ``UserError`` for what is no text."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as fault:
        raise UserError(f"{source}: {path} cannot be read ({fault.strerror}).") from fault
    for begin, what in _OTHERS:
        if head[: len(begin)].lower() == begin.lower():
            raise UserError(f"{source}: {path} {what}.")
    return encoding_of(head)


def check_encoding(data: bytes, encoding: Encoding, path: Path, source: str) -> None:
    """Raises ``UserError``, with the place, where the bytes are not what the encoding says."""
    if encoding.codec == "utf-8" and data.isascii():
        return
    decoder, view = codecs.getincrementaldecoder(encoding.codec)("strict"), memoryview(data)
    for begin in range(encoding.start, len(data), _BLOCK):
        try:
            decoder.decode(view[begin : begin + _BLOCK], final=begin + _BLOCK >= len(data))
        except UnicodeDecodeError as fault:
            raise UserError(f"{source}: {path} {_refusal(data, encoding, begin + fault.start, fault.reason)}") from fault


def _refusal(data: bytes, encoding: Encoding, at: int, reason: str) -> str:
    """Of the bytes at ``at``, or a few before them, kept back by the decoder at the end of a block."""
    line = data.count(b"\n", 0, at) + 1
    near = data[max(0, data.rfind(b"\n", 0, at) + 1, at - 200) : at + 200].split(b"\n")[0]
    guess = f": it may be in {_guess(near)}" if encoding.codec == "utf-8" else ""
    return f"is not {encoding.codec.upper()} at byte {at}, line {line} ({reason}){guess}; save it as UTF-8."


def _guess(near: bytes) -> str:
    """Letters with accents mostly stand alone between others; characters of two bytes come in rows."""
    alone = all(len(run) == 1 for run in re.findall(rb"[\x80-\xff]+", near))
    for codec, name in {} if alone else _ASIAN.items():
        try:
            near.decode(codec)
        except UnicodeDecodeError:
            continue
        return name
    return "Windows-1252 or Latin-1"


def checked_bytes(path: Path, source: str) -> tuple[bytes, Encoding]:
    """A whole text file, and the encoding that all of it is in. Raises ``UserError``."""
    encoding = text_encoding(path, source)
    try:
        data = path.read_bytes()
    except OSError as fault:
        raise UserError(f"{source}: {path} cannot be read ({fault.strerror}).") from fault
    check_encoding(data, encoding, path, source)
    return data, encoding


def read_text(path: Path, source: str) -> str:
    """A whole text file without its byte order mark. Raises ``UserError``."""
    data, encoding = checked_bytes(path, source)
    return data[encoding.start :].decode(encoding.codec)


def read_line(file: BinaryIO, encoding: Encoding) -> bytes:
    """The next line of a file, whose lines end where its code units say so: in UTF-16 a byte 10 may be half of a letter."""
    line = file.readline()
    while encoding.width > 1 and line:
        line += file.read(-len(line) % encoding.width)
        if line.endswith("\n".encode(encoding.codec)) or not (more := file.readline()):
            break
        line += more
    return line


def line_of(line: bytes, encoding: Encoding, sample: str) -> str:
    """One line of a file with this encoding. Raises ``BadSample``, which names the bytes that are of another one."""
    try:
        return line.decode(encoding.codec).removeprefix("\ufeff")
    except UnicodeDecodeError as fault:
        wrong = line[fault.start : fault.start + 4].hex(" ")
        raise BadSample(
            "not the file's encoding", sample, f"{encoding.codec.upper()} has no character {wrong}; save it as UTF-8"
        ) from fault


def sound(text: str, sample: str) -> str:
    """The text itself. Raises ``BadSample`` where half of a surrogate pair stands in it, which no tokenizer takes."""
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise BadSample("damaged text", sample, "an escape like \\ud83d without its other half")
    return text
