"""Drawings as pre-extracted SA-V pairs, SA-1B and Open Images: the sources of regions without captions."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from plugins.datasets.shapes.grammar import SHAPES
from plugins.datasets.shapes.scene import Drawing, rasterise


def jpeg(image: np.ndarray, file: Any) -> None:
    """[H, W, 3] uint8 RGB to a path or an open binary file; no chroma subsampling, shapes would bleed."""
    Image.fromarray(image).save(file, format="JPEG", quality=95, subsampling=0)


def rle(mask: np.ndarray, as_text: bool = True) -> dict[str, Any]:
    """COCO's compressed run lengths of [H, W] bool; text for JSON, bytes as pickles have them."""
    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode() if as_text else encoded["counts"]}


def write_pairs(out: Path, drawings: Iterable[Drawing]) -> int:
    """``sav_000/masklet_data_00000.npz`` ...: BGR float32 0..255, masks 0 and 255. Returns the number of regions."""
    count = 0
    for count, drawing in enumerate(drawings, 1):
        folder = out / f"sav_{(count - 1) // 100:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {}
        for number in (1, 2):
            arrays[f"frame{number}"] = drawing.images[number - 1][:, :, ::-1].astype(np.float32)  # [S, S, 3]
            arrays[f"mask{number}"] = 255 * drawing.masks[number - 1][0].astype(np.float32)  # [S, S]
        np.savez_compressed(folder / f"masklet_data_{count - 1:05d}.npz", **arrays)
    return count


def write_sa1b(out: Path, drawings: Iterable[Drawing]) -> int:
    """``sa_N.jpg`` beside ``sa_N.json``. Returns the number of regions."""
    out.mkdir(parents=True)
    regions = 0
    for number, drawing in enumerate(drawings, 1):
        jpeg(drawing.images[0], out / f"sa_{number}.jpg")
        height, width = drawing.images[0].shape[:2]
        annotations = []
        for mask in drawing.masks[0]:
            regions += 1
            rows, columns = np.nonzero(mask)
            left, top = int(columns.min()), int(rows.min())
            annotations.append(
                {
                    "id": 900_000_000 + regions,
                    "segmentation": rle(mask),
                    # SA-1B's own rule: one less than the number of columns and rows
                    "bbox": [float(left), float(top), float(columns.max() - left), float(rows.max() - top)],
                    "area": int(mask.sum()),
                    "predicted_iou": 0.97,
                    "stability_score": 0.98,
                    "crop_box": [0.0, 0.0, float(width), float(height)],
                    "point_coords": [[float(columns[0]), float(rows[0])]],
                }
            )
        image = {"image_id": number, "width": width, "height": height, "file_name": f"sa_{number}.jpg"}
        (out / f"sa_{number}.json").write_text(json.dumps({"image": image, "annotations": annotations}))
    return regions


def write_openimages(out: Path, drawings: Iterable[Drawing], scale: float = 1.5625) -> int:
    """The segmentation CSV, pictures, class names and 1-bit masks ``scale`` times the picture's size. Returns regions."""
    for folder in ("images/train", "masks/train"):
        (out / folder).mkdir(parents=True)
    rows = []
    for number, drawing in enumerate(drawings):
        side = len(drawing.images[0])
        large = round(scale * side)
        image_id = hashlib.sha256(f"picture {number}".encode()).hexdigest()[:16]
        jpeg(drawing.images[0], out / "images/train" / f"{image_id}.jpg")
        visible: list[np.ndarray] = []
        for thing in drawing.things:
            mask = rasterise(thing.outline(large), large)  # [large, large]
            visible = [*(before & ~mask for before in visible), mask]
        for i, (thing, mask) in enumerate(zip(drawing.things, visible, strict=True)):
            box_id = hashlib.sha256(f"box {number} {i}".encode()).hexdigest()[:8]
            label = _label(thing.words.shape)
            name = f"{image_id}_{label[1:].replace('/', '')}_{box_id}.png"
            Image.fromarray(mask).save(out / "masks/train" / name)  # mode "1"
            y, x = np.nonzero(mask)
            box = [f"{value / large:.6f}" for value in (x.min(), x.max() + 1, y.min(), y.max() + 1)]
            rows.append([name, image_id, label, box_id, *box, "0.95000", f"{x[0] / large:.5f} {y[0] / large:.5f} 1"])
    header = ["MaskPath", "ImageID", "LabelName", "BoxID", "BoxXMin", "BoxXMax", "BoxYMin", "BoxYMax", "PredictedIoU", "Clicks"]
    _write_csv(out / "train-annotations-object-segmentation.csv", [header, *rows])
    _write_csv(out / "oidv7-class-descriptions.csv", [["LabelName", "DisplayName"], *([_label(shape), shape.title()] for shape in SHAPES)])
    return len(rows)


def _label(shape: str) -> str:
    return f"/m/0sh{SHAPES.index(shape)}"


def _write_csv(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
