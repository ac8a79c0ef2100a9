"""The index of a COCO file: which annotations give a region, and where each of them stands.

Exporters agree on ``images``, ``annotations`` and ``categories``, and on little else: ids are numbers or texts, LVIS has ``coco_url`` for
``file_name``, sizes are null, crowds are marked by some who mean brush strokes. What gives no region is counted, never dropped silently.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from core.contracts import BadSample, StoredPicture, UserError
from plugins.datasets import _rle
from plugins.datasets._build import watched
from plugins.datasets._cache import Index, narrow, pack
from plugins.datasets._json import Document
from plugins.datasets._names import named_file
from plugins.datasets._usage import Tally

_NAMES = ("file_name", "coco_url", "path", "filename")  # of a picture, where the first is absent; LVIS v1 has coco_url
_AREAS = 200  # run-length masks whose area is looked at while the index is made
#: What a file is that is no COCO file: its keys, and what to do with it.
_KIN = (
    ({"shapes", "imagePath"}, "is labelme's file of one picture: use labelme, with the folder as root"),
    ({"_via_img_metadata"}, "is a project of the VGG Image Annotator: use via"),
    ({"segments_info"}, "is a panoptic file, whose masks are PNGs: use the instances file"),
)


def key_of(value: Any) -> int | str | None:
    """An id for comparing: whole numbers, also of 128 bits, and numbers written as text are the same; other texts as they are."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) < 40 and str(int(value)) == value else value or None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def texts_of(annotation: dict[str, Any]) -> list[str]:
    """``caption``, ``captions`` or ``phrases``; what is no text counts as a blank one."""
    given = annotation.get("caption", annotation.get("captions", annotation.get("phrases")))
    return [text if isinstance(text, str) else "" for text in (given if isinstance(given, list) else [given] if given is not None else [])]


def places_of(document: Document, source: str) -> dict[str, int]:
    """Key -> place of ``images``, ``annotations`` and what else there is. Raises ``UserError`` for what is no COCO file."""
    path = document.path
    if document.is_array(document.start):
        first = next((value for value, _, _ in document.elements(document.start)), None)
        if isinstance(first, dict) and {"data", "annotations"} <= first.keys():
            raise UserError(f"{source}: {path} is Label Studio's own JSON: export as COCO there, brushes as COCO with run lengths.")
        raise UserError(f"{source}: {path} is a list, no COCO file: that is an object with images, annotations and categories.")
    places = {key: begin for key, begin, _ in document.members()}
    for keys, what in _KIN:
        if keys <= places.keys():
            raise UserError(f"{source}: {path} {what}.")
    for key in ("images", "annotations"):
        if key not in places:
            there = ", ".join(map(repr, list(places)[:8])) or "nothing"
            raise UserError(f"{source}: {path} is no COCO instances file ({key!r} is missing; it has {there}).")
        if not document.is_array(places[key]):
            raise UserError(f"{source}: {path} is no COCO instances file ({key!r} is no list).")
    return places


def objects(document: Document, at: int, name: str, source: str) -> Iterator[tuple[dict[str, Any], int, int]]:
    """(object, begin, end) of each element of a list. Raises ``UserError`` for one that is something else."""
    for number, (one, begin, end) in enumerate(document.elements(at)):
        if not isinstance(one, dict):
            raise UserError(f"{source}: {document.path}: {name}[{number}] ({document.where(begin)}) is no object.")
        yield one, begin, end


class Once:
    """Ids, each with the number and the place of the entry that has it; none may have it a second time."""

    def __init__(self, document: Document, name: str, source: str) -> None:
        self.document, self.name, self.source = document, name, source
        self.rows: dict[Any, int] = {}  # key_of(id) -> place among the entries
        self._begins: list[int] = []

    def add(self, key: Any, begin: int) -> None:
        """The next entry, which begins there. Raises ``UserError`` with both places for an id that has come before."""
        row = self.rows.setdefault(key, len(self._begins))
        if row < len(self._begins):
            where = self.document.where
            places = f"at {where(self._begins[row])} and at {where(begin)}"
            raise UserError(
                f"{self.source}: {self.document.path}: the id {key!r} stands twice in {self.name}, {places}; give each its own."
            )
        self._begins.append(begin)


def pictures_of(document: Document, at: int, source: str, wanted: set[Any] | None = None) -> tuple[dict[Any, int], dict[str, np.ndarray]]:
    """(id -> row, arrays) of ``images``, or of those in ``wanted``: texts ``file``, ``size`` [n, 2] int32 height and width, -1 where the
    file does not say, ``unique`` [1] whether no two names end alike. Raises ``UserError``."""
    once, names, sizes = Once(document, "images", source), list[str](), list[tuple[int, int]]()
    for one, begin, _ in objects(document, at, "images", source):
        key = key_of(one.get("id"))
        if key is None:
            raise UserError(f"{source}: {document.path}: a picture has no id ({document.where(begin)}), so no annotation can name it.")
        if wanted is not None and key not in wanted:
            continue
        name = next((one[place] for place in _NAMES if isinstance(one.get(place), str) and one[place].strip()), "")
        size = (_side(one.get("height")), _side(one.get("width")))
        if (row := once.rows.get(key)) is not None and (names[row], sizes[row]) == (name, size):
            continue  # the same entry again, as in merged files
        once.add(key, begin)
        names.append(name)
        sizes.append(size)
    last = {name.replace("\\", "/").rpartition("/")[2] for name in names}
    arrays = {"size": np.array(sizes, np.int32).reshape(-1, 2), "unique": np.array([len(last) == len(names)])}
    return once.rows, {**arrays, **pack("file", names)}


def _side(value: Any) -> int:
    """Pixels, or -1 for what is no size: null, 0, a word."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return -1
    return int(number) if number.is_integer() and 0 < number < 2**31 else -1


def build(path: Path, source: str, text: str, crowds: bool, empty_masks: bool) -> dict[str, np.ndarray]:
    """For each region where its annotation stands (``begin``, ``length``), its rows in the tables of pictures and categories, and the
    ``number`` of its text, -1 where it has none. Raises ``UserError``."""
    try:
        document = Document(path, source)
        places = places_of(document, source)
        rows_of_pictures, pictures = pictures_of(document, places["images"], source)
        classes = _categories(document, places.get("categories"), source)
        rows_of_classes, names = {key: row for row, key in enumerate(classes)}, list(classes.values())
        once, tally, areas = Once(document, "annotations", source), Tally("annotations"), _Areas()
        rows, entries, used = list[tuple[int, ...]](), 0, set[int]()
        found = objects(document, places["annotations"], "annotations", source)
        for one, begin, end in watched(source, len(document), found):
            entries += 1
            key = key_of(one.get("id"))
            if key is not None:
                once.add(key, begin)
            picture = rows_of_pictures.get(key_of(one.get("image_id")), -1)
            place = rows_of_classes.get(key_of(one.get("category_id")), -1)  # type: ignore[arg-type]
            named = text != "category" or (place >= 0 and bool(names[place].strip()))
            if reason := _unusable(one, picture, named, crowds, empty_masks):
                tally.leave(reason[0], str(one.get("id", document.where(begin))), reason[1], reason[2])
                continue
            used.add(picture)
            areas.look(one)
            count = len(texts_of(one)) if text == "annotation" else 0
            rows += [(*document.span(begin, end), picture, n, place) for n in (range(count) if count else [-1])]
    except (ValueError, RecursionError) as fault:
        raise UserError(f"{source}: {path} cannot be read as JSON ({fault}); it is cut or damaged.") from fault
    if unseen := len(rows_of_pictures) - len(used):
        tally.notes.append(f"{unseen:,} of {len(rows_of_pictures):,} pictures have no region")
    if unknown := int((pictures["size"] < 1).any(axis=1).sum()):
        tally.notes.append(f"{unknown:,} pictures have no size in the file: that of the picture itself is taken")
    tally.warnings += areas.warning()
    table = np.array(rows, np.int64).reshape(-1, 5)
    return {
        "begin": narrow(table[:, 0]),
        **{name: table[:, place].astype(np.int32) for place, name in enumerate(("length", "picture", "number", "class"), start=1)},
        **pictures,
        **pack("category", names),
        **tally.arrays(entries),
    }


def stored(folder: Path, index: Index, chosen: np.ndarray) -> Iterator[StoredPicture]:
    """The files of the pictures of these rows of the index, as far as they are there."""
    for picture in np.unique(index["picture"][chosen]).tolist():
        with suppress(BadSample):  # counted where it is drawn
            if picture >= 0:
                yield StoredPicture(named_file(folder, index.text("file", picture), "", unique=bool(index["unique"][0])))


def _categories(document: Document, at: int | None, source: str) -> dict[Any, str]:
    """id -> name, in the file's order. Raises ``UserError`` for an id with two names."""
    once, names = Once(document, "categories", source), dict[Any, str]()
    if at is None or not document.is_array(at):
        return names
    for one, begin, _ in objects(document, at, "categories", source):
        key, name = key_of(one.get("id")), one.get("name")
        if key is None:
            continue  # no annotation can name it
        name = name if isinstance(name, str) else ""
        if key in names and names[key] == name:
            continue
        once.add(key, begin)
        names[key] = name
    return names


def _unusable(one: dict[str, Any], picture: int, named: bool, crowds: bool, empty_masks: bool) -> tuple[str, str, str] | None:
    """(reason, detail, advice) of an annotation that gives no region, else None."""
    mask = one.get("segmentation")
    if one.get("iscrowd") in (1, "1", "true", "True") and not crowds:
        return "crowd", "", "CVAT marks every brush mask so: crowds: true takes them"
    if not _holds(mask) and not (empty_masks and mask == []):
        boxed = isinstance(one.get("bbox"), list) and len(one["bbox"]) == 4
        return "no mask", f"segmentation is {str(mask)[:40]}", "a box only" if boxed else ""
    if picture < 0:
        return "picture not in images", f"image_id {one.get('image_id')!r}"[:80], ""
    if not named:
        return "no name in categories", f"category_id {one.get('category_id')!r}"[:80], "text: annotation or none takes them"
    return None


def _holds(mask: Any) -> bool:
    """Whether a ``segmentation`` says anything at all; whether it is right shows when it is read."""
    return any(part not in ([], {}, None) for part in mask) if isinstance(mask, list) else bool(mask)


class _Areas:
    """Whether ``area`` is the number of pixels of run-length masks: exporters write that of the box, of the picture, or nothing."""

    def __init__(self) -> None:
        self.seen, self.other = 0, 0

    def look(self, annotation: dict[str, Any]) -> None:
        value, said = annotation.get("segmentation"), annotation.get("area")
        if self.seen >= _AREAS or not isinstance(value, dict) or annotation.get("iscrowd") or said is None:
            return
        try:
            found = _rle.area(value, "")
        except BadSample:
            return  # met again when it is drawn
        self.seen += 1
        self.other += not _rle.same_area(found, said)

    def warning(self) -> list[str]:
        if not self.other:
            return []
        many = f"{self.other:,} of {self.seen:,} run-length masks looked at"
        return [f"{many} have another area than the file says: they are compared with their boxes"]
