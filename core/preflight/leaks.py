"""Pictures that are both trained on and evaluated on, judged by what is in them.

Two files are one picture if they hold the same bytes. Numbers are compared between published data sets alone, which have COCO's own:
every export counts from 1. The same picture saved anew, in other bytes, is not seen.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from core.contracts import KnowsCocoPictures, KnowsPictures, StoredPicture
from core.preflight.data import Drawn
from core.preflight.finding import Finding
from core.recipe import path_text

_PIECE = 2**14  # bytes of a file's beginning and of its end that are looked at first
SECONDS = 20.0  # for looking at files, all sources together
_EVERY = 1000  # files after which the time is looked at


@dataclass
class _Compared:
    """An evaluation against one source: how many of its pictures are there too, of how many, and one of them."""

    common: int
    of: int
    first: str


def leaks(drawn: list[Drawn], seconds: float = SECONDS) -> Iterator[Finding]:
    """One line for each evaluation whose pictures are known, and for each source that shares some with it."""
    known = _outermost(drawn)
    trained, deadline = [source for source in known if source.trains], time.monotonic() + seconds
    for test in known:
        if test.trains or not trained:
            continue
        name, clean = path_text(test.path), True
        pictures = _Pictures(test, deadline)
        for source in trained:
            found = _by_number(test, source) or pictures.common(source, deadline)
            if found.common:
                clean = False
                text = f"{found.common:,} of its {found.of:,} pictures are also in {path_text(source.path)}, such as {found.first}"
                yield Finding("fail" if found.common == found.of else "warn", name, text)
        if pictures.late:
            yield Finding("warn", name, f"not all pictures could be compared in {seconds:g} s: others may be trained on")
        elif clean and (count := max(len(_numbers(test)), pictures.count)):
            yield Finding("pass", name, f"none of its {count:,} pictures is trained on")


def _outermost(drawn: list[Drawn]) -> list[Drawn]:
    """Those that know their pictures; of one inside another, the other, if it knows them too."""
    known: list[Drawn] = []
    for source in drawn:
        told = any(source.path[: len(other.path)] == other.path for other in known)
        if not told and isinstance(source.dataset, KnowsCocoPictures | KnowsPictures):
            known.append(source)
    return known


def _numbers(source: Drawn) -> set[int]:
    return source.dataset.coco_images() if isinstance(source.dataset, KnowsCocoPictures) else set()


def _by_number(test: Drawn, source: Drawn) -> _Compared | None:
    """None where one of them has no numbers of COCO."""
    wanted, there = _numbers(test), _numbers(source)
    if not wanted or not there:
        return None
    common = wanted & there
    return _Compared(len(common), len(wanted), f"number {min(common)}" if common else "")


class _Pictures:
    """Those of an evaluation, by size and by what is in them."""

    def __init__(self, test: Drawn, deadline: float) -> None:
        self.late = False
        self._by_size: dict[int, list[StoredPicture]] = defaultdict(list)
        for picture, size in self._of(test, deadline):
            self._by_size[size].append(picture)
        self.count = sum(map(len, self._by_size.values()))
        self._ends: dict[int, dict[bytes, list[StoredPicture]]] = {}  # size -> beginning and end -> pictures
        self._whole: dict[StoredPicture, bytes] = {}

    def _of(self, source: Drawn, deadline: float) -> Iterator[tuple[StoredPicture, int]]:
        """(picture, bytes), until the deadline."""
        if not isinstance(source.dataset, KnowsPictures):
            return
        for number, picture in enumerate(source.dataset.picture_files()):
            if number % _EVERY == 0 and time.monotonic() > deadline:
                self.late = True
                return
            if (size := picture.length()) is not None:
                yield picture, size

    def common(self, source: Drawn, deadline: float) -> _Compared:
        """Those that are in the source too. Whole files are read only where size, beginning and end are the same."""
        found = set[StoredPicture]()
        for picture, size in self._of(source, deadline) if self._by_size else ():
            if size not in self._by_size:
                continue
            if size not in self._ends:
                self._ends[size] = defaultdict(list)
                for one in self._by_size[size]:
                    self._ends[size][_digest(one, size, _PIECE)].append(one)
            alike = self._ends[size].get(_digest(picture, size, _PIECE), [])
            if alike and size > 2 * _PIECE:
                content = _digest(picture, size, size)
                alike = [one for one in alike if self._content(one, size) == content]
            found.update(alike)
        return _Compared(len(found), self.count, min((picture.file.name for picture in found), default=""))

    def _content(self, picture: StoredPicture, size: int) -> bytes:
        if picture not in self._whole:
            self._whole[picture] = _digest(picture, size, size)
        return self._whole[picture]


def _digest(picture: StoredPicture, size: int, piece: int) -> bytes:
    """Of so many bytes of its beginning and of its end; of the place, which nothing else has, where it cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with picture.file.open("rb") as file:
            for begin in dict.fromkeys([0, max(0, size - piece)]):
                file.seek(picture.offset + begin)
                digest.update(file.read(min(size, piece)))
    except OSError:
        digest.update(os.fsencode(picture.file) + str(picture.offset).encode())
    return digest.digest()
