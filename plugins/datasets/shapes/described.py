"""Drawings as RefCOCO and as the Describe Anything Dataset: the sources of regions with words."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from plugins.datasets.shapes.grammar import SHAPES, caption, expressions
from plugins.datasets.shapes.scene import Drawing, rasterise
from plugins.datasets.shapes.writers import jpeg, rle


def write_refcoco(out: Path, splits: Mapping[str, Iterable[Drawing]], rng: np.random.Generator) -> dict[str, int]:
    """``refs(unc).p``, ``instances.json`` and the pictures. Only things that nothing covers are referred to, since a
    polygon is the whole outline. Returns the number of expressions of each split."""
    pictures = out / "coco2014" / "train2014"
    pictures.mkdir(parents=True)
    refs: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    sent_id = 0
    for split, drawings in splits.items():
        for drawing in drawings:
            image_id = 100_001 + len(images)
            name = f"COCO_train2014_{image_id:012d}.jpg"
            jpeg(drawing.images[0], pictures / name)
            side = len(drawing.images[0])
            images.append({"license": 7, "file_name": name, "height": side, "width": side, "id": image_id})
            for index, (thing, mask) in enumerate(zip(drawing.things, drawing.masks[0], strict=True)):
                outline = thing.outline(side)
                category = SHAPES.index(thing.words.shape) + 1
                annotations.append(_annotation(outline, mask, 1000 + len(annotations), image_id, category))
                if not np.array_equal(mask, rasterise(outline, side)):
                    continue
                texts = expressions(index, [one.words for one in drawing.things], rng)
                sentences = []
                for place, text in enumerate(texts):
                    raw = (text, text.capitalize(), text.upper())[int(rng.integers(3)) if place else 0]  # people type as they like
                    sentences.append({"tokens": text.split(), "raw": raw, "sent_id": sent_id, "sent": text})
                    sent_id += 1
                refs.append(
                    {
                        "sent_ids": [sentence["sent_id"] for sentence in sentences],
                        "file_name": name.replace(".jpg", f"_{len(refs)}.jpg"),  # as in the original: not the picture's name
                        "ann_id": annotations[-1]["id"],
                        "ref_id": len(refs),
                        "image_id": image_id,
                        "split": split,
                        "sentences": sentences,
                        "category_id": category,
                    }
                )
    (out / "refs(unc).p").write_bytes(python2_pickle(refs))
    categories = [{"supercategory": "shape", "id": i + 1, "name": shape} for i, shape in enumerate(SHAPES)]
    whole = {"info": {"description": "coloured shapes"}, "images": images, "licenses": [{"id": 7, "name": "none", "url": ""}]}
    (out / "instances.json").write_text(json.dumps({**whole, "annotations": annotations, "categories": categories}))
    return {split: sum(len(ref["sentences"]) for ref in refs if ref["split"] == split) for split in splits}


def _annotation(outline: list[float], mask: np.ndarray, number: int, image_id: int, category: int) -> dict[str, Any]:
    x, y = outline[::2], outline[1::2]
    box = [round(value, 2) for value in (min(x), min(y), max(x) - min(x), max(y) - min(y))]
    common = {"iscrowd": 0, "image_id": image_id, "category_id": category, "id": number}
    return {"segmentation": [outline], "area": float(mask.sum()), "bbox": box, **common}


def python2_pickle(value: Any) -> bytes:
    """Protocol 0 as Python 2 writes it: byte strings (``S``), no globals. Lists, dicts, ASCII str and int."""
    return _opcodes(value) + b"."


def _opcodes(value: Any) -> bytes:
    if isinstance(value, dict):
        return b"(d" + b"".join(_opcodes(key) + _opcodes(item) + b"s" for key, item in value.items())
    if isinstance(value, list):
        return b"(l" + b"".join(_opcodes(item) + b"a" for item in value)
    return f"I{value}\n".encode() if isinstance(value, int) else f"S{value!r}\n".encode("ascii")


def write_dam_images(out: Path, drawings: Iterable[Drawing], first: int, padded: bool) -> int:
    """One image split: ``annotations.json`` and ``images/00000000.tar``; keys count from ``first``. ``padded``:
    annotations name pictures with twelve digits and the tar without, as in LVIS. Returns the number of regions."""
    annotations: dict[str, list[dict[str, Any]]] = {}
    with _tar(out) as tar:
        for number, drawing in enumerate(drawings, first):
            stem = f"{number:012d}" if padded else str(number)
            regions, pickled = [], []
            for place, (thing, mask) in enumerate(zip(drawing.things, drawing.masks[0], strict=True)):
                region = {"img_id": number, "ann_id": 10 * number + place, "image": f"train2017/{stem}.jpg"}
                region |= {"category": thing.words.shape, "caption": caption(thing.words)}
                regions.append({**region, "mask_rle": rle(mask), "tar_file": "00000000.tar"})
                pickled.append({**region, "mask_rle": rle(mask, as_text=False)})
            annotations[str(number)] = regions
            _add_jpeg(tar, f"{number}.jpg", drawing.images[0])
            _add(tar, f"{number}.pickle", pickle.dumps(pickled, protocol=2))
    (out / "annotations.json").write_text(json.dumps(annotations))
    return sum(map(len, annotations.values()))


def write_dam_sav(out: Path, drawings: Iterable[Drawing], first: int) -> int:
    """The SAV split: the first thing of each drawing in all its frames. Returns the number of regions."""
    annotations: dict[str, dict[str, Any]] = {}
    with _tar(out) as tar:
        for number, drawing in enumerate(drawings, first):
            key = f"sav_{number:06d}_0"
            names = [f"{key}.{frame}.jpg" for frame in range(len(drawing.images))]
            region = {"video_id": f"sav_{number:06d}", "ann_id": 0, "image": names, "category": None}
            region["caption"] = caption(drawing.things[0].words)
            masks = [of_frame[0] for of_frame in drawing.masks]
            annotations[key] = {**region, "mask_rle": [rle(mask) for mask in masks], "tar_file": "00000000.tar"}
            for name, image in zip(names, drawing.images, strict=True):
                _add_jpeg(tar, name, image)
            _add(tar, f"{key}.pickle", pickle.dumps({**region, "mask_rle": [rle(mask, as_text=False) for mask in masks]}, protocol=2))
    (out / "annotations.json").write_text(json.dumps(annotations))
    return len(annotations)


def _tar(out: Path) -> tarfile.TarFile:
    (out / "images").mkdir(parents=True)
    return tarfile.open(out / "images" / "00000000.tar", "w", format=tarfile.USTAR_FORMAT)


def _add_jpeg(tar: tarfile.TarFile, name: str, image: np.ndarray) -> None:
    buffer = io.BytesIO()
    jpeg(image, buffer)
    _add(tar, name, buffer.getvalue())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)  # time and owner stay zero: the same seed gives the same bytes
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))
