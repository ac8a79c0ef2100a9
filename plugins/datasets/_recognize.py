"""What a folder or a file looks like to each reader, for ``core.check --data``: from names and a file's beginning, never all of it."""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from core.contracts import BadSample, Recognized
from plugins.datasets._names import named_file
from plugins.datasets._text import encoding_of

_DEPTH, _MOST = 3, 20_000  # folders below the given one, and names, that are looked at
_BEGINNING = 2**20  # bytes of a JSON file
_SPLITS = {"SAV", "COCOStuff", "LVIS", "Mapillary", "OpenImages", "PACO", "SAM"}
_PICTURE = re.compile(r'"(?:file_name|coco_url)"\s*:\s*("(?:[^"\\]|\\.)*")')


@lru_cache(maxsize=4)
def _names(root: Path) -> tuple[Path, ...]:
    """The first files below it, those near it first."""
    return tuple(_walk(root))


def _walk(root: Path) -> Iterator[Path]:
    folders, seen = deque([(root, 0)]), 0
    while folders and seen < _MOST:
        folder, depth = folders.popleft()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue  # what cannot be listed is told by the reader that is taken
        for entry in entries[:_MOST]:
            seen += 1
            if entry.is_dir():
                if depth < _DEPTH:
                    folders.append((Path(entry.path), depth + 1))
            else:
                yield Path(entry.path)


def _files(path: Path) -> tuple[Path, ...]:
    return (path,) if path.is_file() else _names(path)


def folder_regions(path: Path) -> list[Recognized]:
    """A table of lines with pictures and masks."""
    found = [one for one in _files(path) if one.suffix == ".jsonl"]
    found.sort(key=lambda one: (one.name != "regions.jsonl", len(one.parts)))
    return [_lines(one, sure=1.0 if one.name == "regions.jsonl" or one == path else 0.7) for one in found[:3]]


def _lines(table: Path, sure: float) -> Recognized:
    keys = {"root": table.parent} if table.name == "regions.jsonl" else {"root": table.parent, "file": table.name}
    return Recognized(sure, f"lines of JSON in {table}", keys)


def _ends(path: Path) -> str:
    """The beginning of a text file, and its end: a look, in which letters cut in two do not matter."""
    with path.open("rb") as file:
        head = file.read(_BEGINNING)
        file.seek(max(0, path.stat().st_size - _BEGINNING) // 4 * 4)
        codec = encoding_of(head).codec
        return head.decode(codec, "replace") + file.read().decode(codec, "replace")


def labelme(path: Path) -> list[Recognized]:
    """A JSON file with shapes for each picture."""
    for one in _files(path):
        if one.suffix == ".json" and all(f'"{key}"' in (text := _ends(one)) for key in ("shapes", "imagePath")):
            described = re.search(r'"description"\s*:\s*"[^"]', text)
            root = path if path.is_dir() else path.parent
            return [Recognized(0.9, f"labelme: {one}", {"root": root} if described else {"root": root, "text": "category"})]
    return []


def via(path: Path) -> list[Recognized]:
    """A project, or exported annotations, of the VGG Image Annotator."""
    found = []
    for one in _files(path):
        if one.suffix not in (".json", ".csv") or "region_attributes" not in (text := _ends(one)) or "filename" not in text:
            continue
        name = re.search(r'"filename"\s*:\s*("(?:[^"\\]|\\.)*")', text)
        first = json.loads(name[1]) if name else text.split("\n")[min(1, text.count("\n"))].split(",")[0]
        found.append(Recognized(0.9, f"VGG Image Annotator: {one}", {"annotations": one, "images": _pictures(one, path, first)}))
    return found[:5]


def coco(path: Path) -> list[Recognized]:
    """JSON files that name pictures and annotations."""
    found = []
    for one in _files(path):
        if one.suffix != ".json" or one.name.startswith("sa_") or (one.name == "instances.json" and any(one.parent.glob("*refs(*).*"))):
            continue
        ends = _ends(one)
        keys = [key for key in ("images", "annotations", "categories") if f'"{key}"' in ends]
        if len(keys) < 2 or not ("segmentation" in ends or "bbox" in ends):  # of boxes alone it says that there are no masks
            continue
        name = _PICTURE.search(ends)
        pictures = _pictures(one, path, json.loads(name[1]) if name else "")
        found.append(Recognized(0.9, f"COCO annotations in {one}", {"annotations": one, "images": pictures}))
        if len(found) == 5:
            break
    return found


def _pictures(annotations: Path, root: Path, name: str) -> Path:
    """The folder that holds a picture of this name, near the file of annotations; its own folder where none does."""
    near = [annotations.parent, annotations.parent / "images", annotations.parent.parent / "images", annotations.parent.parent]
    near += [annotations.parent / annotations.stem, annotations.parent.parent / annotations.stem.removeprefix("instances_")]
    near += sorted({one.parent for one in _files(root if root.is_dir() else root.parent)})
    if not name:
        return annotations.parent
    return next((folder for folder in near if _has(folder, name)), annotations.parent)


def _has(folder: Path, name: str) -> bool:
    try:
        return named_file(folder, name, "").is_file()
    except BadSample:
        return False


def sa1b(path: Path) -> list[Recognized]:
    """JSON files of masks, one for each picture."""
    if path.is_file():
        return []
    names = [one.name for one in _names(path) if one.suffix == ".json" and re.fullmatch(r"sa_\d+\.json", one.name)]
    return [Recognized(0.9, f"SA-1B: sa_*.json such as {names[0]}", {"root": path})] if names else []


def sav(path: Path) -> list[Recognized]:
    """Videos with masklets, or the frames of the val and test sets."""
    if path.is_file():
        return []
    names = _names(path)
    kinds = [kind for kind in ("manual", "auto") if any(one.name.endswith(f"_{kind}.json") for one in names)]
    if kinds and any(one.suffix == ".mp4" for one in names):
        keys = {"root": path} if kinds[0] == "manual" else {"root": path, "annotations": kinds[0]}
        return [Recognized(0.9, f"SA-V: *.mp4 with *_{kinds[0]}.json", keys)]
    both = [one for one in (path, *path.iterdir()) if (one / "JPEGImages_24fps").is_dir() and (one / "Annotations_6fps").is_dir()]
    return [Recognized(0.9, "SA-V's val or test set: JPEGImages_24fps and Annotations_6fps", {"root": both[0]})] if both else []


def sav_pairs(path: Path) -> list[Recognized]:
    """Pre-extracted pairs."""
    found = path.is_dir() and any(one.name.startswith("masklet_data_") and one.suffix == ".npz" for one in _names(path))
    return [Recognized(0.9, "pairs of frames: masklet_data_*.npz", {"root": path})] if found else []


def openimages(path: Path) -> list[Recognized]:
    """The CSV of the masks."""
    name = re.compile(r"(train|validation|test)-annotations-object-segmentation\.csv")
    found = [(one, match[1]) for one in _files(path) if (match := name.fullmatch(one.name))]
    return [Recognized(0.9, f"Open Images: {one.name}", {"root": one.parent, "split": split}) for one, split in found]


def refcoco(path: Path) -> list[Recognized]:
    """REFER's files."""
    found = [(one, match[1]) for one in _files(path) if (match := re.fullmatch(r"g?refs\((\w+)\)\.(?:p|json)", one.name))]
    return [
        Recognized(0.9, f"REFER: {one}", {"root": one.parent.parent, "dataset": one.parent.name, "split_by": by})
        for one, by in found
        if one.parent.name in ("refcoco", "refcoco+", "refcocog", "grefcoco", "refclef")
    ]


def dam(split: str) -> Any:
    """The recogniser of one split of the Describe Anything Dataset."""

    def recognizes(path: Path) -> list[Recognized]:
        root, sure = (path.parent, 0.95) if path.name == split else (path, 0.9)
        there = (root / split / "annotations.json").is_file() and (root / split / "images").is_dir()
        return [Recognized(sure, f"Describe Anything: {split}/annotations.json", {"root": root})] if there else []

    return recognizes
