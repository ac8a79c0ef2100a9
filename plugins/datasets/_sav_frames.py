"""SA-V's val and test sets: frames as JPEGs and a mask PNG for each object and annotated frame.

Layout (sam2's ``sav_dataset/README.md``): ``JPEGImages_24fps/{video}/{frame:05d}.jpg`` and, for every 4th frame,
``Annotations_6fps/{video}/{object:03d}/{frame:05d}.png``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from core.contracts import BadSample, Region, UserError
from core.pixels import Unreadable, mask_of
from plugins.datasets._build import over_files
from plugins.datasets._index import spread
from plugins.datasets._pictures import Pictures

PICTURES, MASKS = "JPEGImages_24fps", "Annotations_6fps"
_STEP = 4  # frames from one annotated frame to the next


def frames_root(root: Path) -> Path | None:
    """The folder that holds both, ``root`` or the only one in it that does; None: another layout. Raises ``UserError`` for several."""
    there = [one for one in (root, *sorted(root.iterdir())) if (one / PICTURES).is_dir() and (one / MASKS).is_dir()]
    if len(there) > 1:
        raise UserError(f"sav: {root} holds {' and '.join(one.name for one in there)}; set root to one of them.")
    return there[0] if there else None


def objects(root: Path) -> list[str]:
    """``{video}/{object}`` of each folder of masks, sorted."""
    try:
        videos = sorted(one for one in (root / MASKS).iterdir() if one.is_dir())
        return [f"{video.name}/{one.name}" for video in videos for one in sorted(video.iterdir()) if one.is_dir()]
    except OSError as fault:
        raise UserError(f"sav: {root / MASKS} cannot be listed ({fault}).") from fault


def pairs(root: Path, distance: int, most: int, names: list[str], partial_folder: Path) -> np.ndarray:
    """[m, 3] int32: object, 0, annotated frame at which it shows, as it does ``distance`` annotated frames later."""
    return over_files("sav", partial(_pairs, root, distance, most), names, partial_folder, 2)


def _pairs(root: Path, distance: int, most: int, names: tuple[str, ...]) -> np.ndarray:
    rows = []
    for place, name in enumerate(names):
        frames = {int(file.stem) // _STEP for file in sorted((root / MASKS / name).glob("*.png")) if file.stem.isdigit() and _shows(file)}
        seen = sorted(k for k in frames if k + distance in frames)
        rows += [(place, 0, seen[i]) for i in spread(len(seen), most, seed=place)]
    return np.array(rows, np.int32).reshape(-1, 3)


def _shows(file: Path) -> bool:
    """Whether the object is there; what cannot be read counts, so that it is met."""
    try:
        return bool(mask_of(file, kind="binary").any())
    except Unreadable:
        return True


def picture(root: Path, name: str, k: int) -> Path:
    """Of an object's video, the annotated frame ``k``."""
    return root / PICTURES / name.partition("/")[0] / f"{_STEP * k:05d}.jpg"


def region(root: Path, name: str, frames: list[int], pictures: Pictures, sample: str) -> Region:
    """One or two annotated frames of an object."""
    views = []
    for k in frames:
        stem = f"{_STEP * k:05d}"
        mask = pictures.mask(root / MASKS / name / f"{stem}.png", sample, "binary")  # [H, W]
        if not mask.any():
            raise BadSample("empty mask", sample, f"frame {stem}")
        image, _ = pictures.view(picture(root, name, k), sample, mask.shape)  # [H, W, 3]
        views.append((image, mask))
    second = views[1] if len(views) > 1 else (None, None)
    return Region(id=sample, image=views[0][0], mask=views[0][1], image2=second[0], mask2=second[1])
