"""How much of a source a data set uses, and which pictures. An index leaves out what no sample can be made of; here it is counted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class StoredPicture(NamedTuple):
    """Where the bytes of a picture lie: a file, or a part of one, such as a tar's member."""

    file: Path
    offset: int = 0  # bytes
    size: int | None = None  # bytes; None: up to the end of the file

    def length(self) -> int | None:
        """Bytes; None for a file that is not there, which is counted where it is drawn."""
        if self.size is not None:
            return self.size
        try:
            return self.file.stat().st_size - self.offset
        except OSError:
            return None


@dataclass(frozen=True)
class LeftOut:
    """Entries of a source that give no sample, for one reason."""

    reason: str  # a short, constant phrase, as a BadSample's: "crowd"
    count: int
    advice: str = ""  # what takes them, or what they may be: "crowds: true takes them"
    examples: tuple[tuple[str, str], ...] = ()  # (id or place in the file, detail) of the first of them

    def __str__(self) -> str:
        return f"{self.count:,} x {self.reason}" + (f" ({self.advice})" if self.advice else "")


@dataclass(frozen=True)
class Usage:
    """Of ``of`` entries of a source all are used but those that are ``left_out``. ``notes``: what else there is to know of it;
    ``warnings``: what may be wrong with it."""

    of: int
    unit: str  # what an entry is, in the plural: "annotations"
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def used(self) -> int:
        return self.of - sum(one.count for one in self.left_out)

    def __str__(self) -> str:
        """``3 of 7 annotations used; left out: 4 x crowd (crowds: true takes them)``."""
        left = f"; left out: {', '.join(map(str, self.left_out))}" if self.left_out else ""
        return "; ".join([f"{self.used:,} of {self.of:,} {self.unit} used{left}", *self.notes, *self.warnings])
