"""A stamp of a source: which data a run was trained on, wherever they lie.

How many samples there are; of a few, spread over all, their ids, texts and masks to the bit and their pictures coarsely (decoders differ
by a level or two); every byte of the files that describe the samples, where the data set names them (``KnowsItsFiles``); and
the sizes in bytes of its first pictures, and some bytes of a few of these, where it knows their files (``KnowsPictures``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from core.checkpoints import contents
from core.contracts import BadSample, Dataset, KnowsItsFiles, KnowsPictures, Region, StoredPicture
from core.engine.undisturbed import undisturbed

LOOKED_AT = 16  # samples of a source
PICTURES = 5000  # whose sizes are asked for: a second or two on a slow disk
PIECES, PIECE = 256, 2048  # pictures of which the beginning, the middle and the end are read; bytes
CELLS = 4  # of a picture in each direction
TOLERANCE = 4  # of 255, between the means of a cell as two decoders give them


def stamp(dataset: Dataset, parts: Mapping[str, Dataset], given: Mapping[str, Path], known: Mapping[str, Any]) -> dict[str, Any]:
    """The stamp of a source. ``parts``: the data sets that it is made of, itself included, by name; ``given``: paths that its keys give,
    of which single files count where no data set names its own. Reads ``LOOKED_AT`` samples. Raises ``UserError`` for unreadable files."""
    files: dict[str, Path] = {}
    for name, part in parts.items():
        if isinstance(part, KnowsItsFiles):
            files |= {f"{name}{number}/{file.name}": file for number, file in enumerate(part.its_files(), 1)}
    if not files:
        files = {f"{key}/{path.name}": path for key, path in given.items() if path.is_file()}
    telling = [dataset] if isinstance(dataset, KnowsPictures) else parts.values()  # a wrapper gives those of what is inside it
    pictures = (picture for part in telling if isinstance(part, KnowsPictures) for picture in part.picture_files())
    count = len(dataset)
    chosen = sorted({place * count // LOOKED_AT for place in range(LOOKED_AT)}) if count else []
    with undisturbed():
        looked = [_looked_at(dataset, index) for index in chosen]
    found = {"samples": count, "looked_at": looked, "files": contents.contents(files, known.get("files"))}
    return found | {"stored": _stored(islice(pictures, PICTURES))}


def _stored(pictures: Iterable[StoredPicture]) -> dict[str, Any]:
    """Of their names and sizes, in whatever order and wherever they lie, and of some bytes of ``PIECES`` of them."""
    found = sorted((picture.file.name, picture.offset, picture.length() or 0, picture) for picture in pictures)
    sizes, digest = [one[:3] for one in found], hashlib.sha256()
    for number in sorted({place * len(found) // PIECES for place in range(PIECES)}) if found else []:
        digest.update(_pieces(found[number][3], found[number][2]))
    return {"count": len(sizes), "sha256": hashlib.sha256(json.dumps(sizes).encode()).hexdigest(), "pieces": digest.hexdigest()}


def _pieces(picture: StoredPicture, size: int) -> bytes:
    """Some of its bytes; none of one that cannot be read, which is told where it is drawn."""
    try:
        with picture.file.open("rb") as file:
            read = []
            for begin in (0, max(0, size // 2 - PIECE), max(0, size - PIECE)):
                file.seek(picture.offset + begin)
                read.append(file.read(min(PIECE, size)))
        return b"".join(read)
    except OSError:
        return b""


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How two stamps of a source differ, a part of a sentence each."""
    found = contents.differences(then["files"], now["files"])
    if then["samples"] != now["samples"]:
        return [*found, f"it had {then['samples']} samples, has {now['samples']}"]
    other = [two for one, two in zip(then["looked_at"], now["looked_at"], strict=False) if not _alike(one, two)]
    if other:
        found.append(f"{len(other)} of {len(now['looked_at'])} samples that were looked at differ, such as {other[0]['id']}")
    elif _other_pictures(then, now["stored"]):
        found.append(f"among its {now['stored']['count']} pictures that were looked at some have another name, size or content")
    return found


def _other_pictures(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """A run of before has no such entry, or knows sizes alone, of ``pictures``; fewer data sets knew their pictures then."""
    if "stored" in then:
        return bool(then["stored"] != now)
    known = then.get("pictures", {})
    return known.get("count") == now["count"] and known["sha256"] != now["sha256"]


def _looked_at(dataset: Dataset, index: int) -> dict[str, Any]:
    try:
        region = dataset[index]
    except BadSample as bad:
        return {"id": bad.sample, "bad": bad.reason}
    return {"id": region.id, "sha256": _digest(region), "picture": _cells(region.image), "picture2": _cells(region.image2)}


def _digest(region: Region) -> str:
    """Of all that is exact: id, texts, sizes and masks."""
    shapes = [None if array is None else list(array.shape) for array in (region.image, region.image2)]
    texts = [region.id, region.caption, list(region.captions), region.category, shapes]
    digest = hashlib.sha256(json.dumps(texts).encode())
    for mask in (region.mask, region.mask2):
        digest.update(b"-" if mask is None else np.packbits(np.asarray(mask, dtype=bool)).tobytes())
    return digest.hexdigest()


def _cells(picture: np.ndarray | None) -> str | None:
    """Means of ``CELLS`` x ``CELLS`` cells of a picture [H, W, 3], as hexadecimal bytes."""
    if picture is None or 0 in picture.shape:
        return None
    rows = np.array_split(np.asarray(picture), min(CELLS, picture.shape[0]), axis=0)
    cells = [
        cell.reshape(-1, cell.shape[-1]).mean(axis=0) for row in rows for cell in np.array_split(row, min(CELLS, row.shape[1]), axis=1)
    ]
    return np.rint(np.stack(cells)).astype(np.uint8).tobytes().hex()


def _alike(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    if (then.get("sha256"), then.get("bad"), then["id"]) != (now.get("sha256"), now.get("bad"), now["id"]):
        return False
    return all(_near(then.get(key), now.get(key)) for key in ("picture", "picture2"))


def _near(then: str | None, now: str | None) -> bool:
    if then is None or now is None or len(then) != len(now):
        return then == now
    one, two = (np.frombuffer(bytes.fromhex(text), np.uint8).astype(int) for text in (then, now))
    return int(np.abs(one - two).max(initial=0)) <= TOLERANCE
