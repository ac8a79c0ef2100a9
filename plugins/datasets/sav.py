"""SA-V as it is published: ``{video}.mp4`` with ``{video}_manual.json`` or ``{video}_auto.json``.

Format: sam2's ``sav_dataset/README.md``. ``masklet[k][object]`` is the object's run-length mask on annotated frame k,
which is video frame 4k: videos have 24 frames a second, annotations 6. Objects overlap; an absent one has an empty mask
or None. Numbers in the file may be floats. ``masklet_first_appeared_frame`` and the like count annotated frames and are
not used: visibility is read off the masks. The val and test sets have another layout: ``_sav_frames``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from core.contracts import BadSample, Count, Region, StoredPicture, Usage, UserError, Within
from core.pixels import differ
from plugins.datasets import _recognize, _rle, _sav_frames, _video
from plugins.datasets._build import over_files
from plugins.datasets._cache import Index, cached, pack, stamp_of
from plugins.datasets._index import STAMPED, existing_folder, spread
from plugins.datasets._listing import listing
from plugins.datasets._pictures import Pictures
from plugins.datasets._usage import Tally, usage_of_index

_VIDEO_RATE = 24  # frames a second, of all SA-V videos


class Sav:
    """Two visible frames of one object; ids are ``{json path without suffix}/{object}/{first annotated frame}``."""

    recognizes = staticmethod(_recognize.sav)

    def __init__(
        self,
        *,
        root: Path,
        annotations: Literal["manual", "auto", "both"] = "manual",
        distance: Annotated[int, Within(0)] = 6,
        pairs: Count = 1,
        max_samples: Count | None = None,
    ) -> None:
        """``distance`` of the two frames in annotated frames (6 a second); 0 gives one frame only. ``pairs``: at most
        so many pairs of an object, spread over the times at which both frames show it. Raises ``UserError``."""
        if annotations not in ("manual", "auto", "both"):
            raise ValueError(f"annotations must be manual, auto or both, not {annotations}.")
        if distance < 0 or pairs < 1:
            raise ValueError(f"distance must not be negative and pairs at least 1, not {distance} and {pairs}.")
        self.root, self.distance = existing_folder(root, "sav", "*.mp4 and *_manual.json"), distance
        self.pictures = Pictures("sav")
        self._frames = _sav_frames.frames_root(self.root)
        if self._frames is not None and annotations != "manual":
            raise UserError(f"sav: the frames in {self._frames} have manual annotations only; leave annotations out.")
        options = {"root": self.root.resolve(), "annotations": annotations, "distance": distance, "pairs": pairs}
        self._index = self._of_frames(options, self._frames) if self._frames is not None else self._of_videos(options)
        count = len(self._index["rows"])  # [n, 3]: file, object, annotated frame
        if not count:
            if self._frames is None and not self._index.count("name"):
                text = f"there is neither *_{annotations}.json nor {_sav_frames.PICTURES} with {_sav_frames.MASKS} under {self.root}"
                raise UserError(f"sav: {text}; check root, or unpack the data set there.")
            raise UserError(f"sav: nothing under {self.root} shows an object on two frames {distance} apart; set a smaller distance.")
        self._chosen = spread(count, max_samples)

    def _of_frames(self, options: dict[str, Any], root: Path) -> Index:
        names = _sav_frames.objects(root)

        def build(folder: Path) -> dict[str, np.ndarray]:
            rows = _sav_frames.pairs(root, options["distance"], options["pairs"], names, folder)
            return pack("name", names) | {"rows": rows} | _tally("objects", rows[:, 0], names)

        return cached("sav", options, stamp_of(root / _sav_frames.MASKS / name for name in names), build)

    def _of_videos(self, options: dict[str, Any]) -> Index:
        annotations, distance, pairs = (options[key] for key in ("annotations", "distance", "pairs"))
        kinds = ("manual", "auto") if annotations == "both" else (annotations,)
        found = [listing("sav", self.root, "", f"_{kind}.json") for kind in kinds]
        names = sorted(files.text("name", row) for files in found for row in range(files.count("name")))

        def build(folder: Path) -> dict[str, np.ndarray]:
            rows = over_files("sav", partial(_pairs, self.root, distance, pairs), names, folder, 2)
            return pack("name", names) | {"rows": rows} | _tally("files", rows[:, 0], names)

        return cached("sav", options, stamp_of(self.root / name for name in names), build)

    def usage(self) -> list[Usage]:
        """Of the files of masks, and how unusual pictures were read."""
        usage = usage_of_index(self._index, len(self._chosen), len(self._index["rows"]))
        return [replace(usage, notes=usage.notes + self.pictures.notes())]

    def its_files(self) -> list[Path]:
        """Of many files some, spread over all."""
        return [self.root / self._index.text("name", row) for row in spread(self._index.count("name"), STAMPED)]

    def picture_files(self) -> Iterator[StoredPicture]:
        """A video counts as one picture; of unpacked frames those that are shown."""
        rows = self._index["rows"][np.asarray(self._chosen)]  # [n, 3]: file, object, annotated frame
        if self._frames is None:
            names = (self._index.text("name", file) for file in np.unique(rows[:, 0]).tolist())
            found = {self.root / f"{name.removesuffix('.json').rpartition('_')[0]}.mp4" for name in names}
        else:
            shown = [(self._index.text("name", file), k) for file, _, first in rows.tolist() for k in (first, first + self.distance)]
            found = {_sav_frames.picture(self._frames, name, k) for name, k in shown}
        return map(StoredPicture, sorted(filter(Path.is_file, found)))

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Region:
        file, thing, first = (int(value) for value in self._index["rows"][self._chosen[index]])
        name = self._index.text("name", file)
        if self._frames is not None:
            frames = list(dict.fromkeys([first, first + self.distance]))
            return _sav_frames.region(self._frames, name, frames, self.pictures, f"{name}/{first}")
        sample = f"{name.removesuffix('.json')}/{thing}/{first}"
        content = _content(self.root / name, sample)
        try:
            step = round(_VIDEO_RATE / content["fps"])
            expected = math.ceil(int(content["video_frame_count"]) / step)
            cells = [content["masklet"][k][thing] for k in dict.fromkeys([first, first + self.distance])]
        except (KeyError, IndexError, TypeError, ValueError, ArithmeticError) as fault:
            raise BadSample("damaged annotation", sample, str(fault)) from fault
        if len(content["masklet"]) != expected:
            raise BadSample("masks and video differ in length", sample, f"{len(content['masklet'])} annotated frames, {expected} expected")
        masks = [_rle.decode(cell, sample) for cell in cells]  # [H, W] each
        if not all(mask.any() for mask in masks):
            raise BadSample("empty mask", sample)
        stem, _, _ = name.removesuffix(".json").rpartition("_")
        wanted = [k * step for k in dict.fromkeys([first, first + self.distance])]
        images = _video.frames(self.root / f"{stem}.mp4", wanted, sample)  # [H, W, 3] each
        if any(image.shape[:2] != mask.shape for image, mask in zip(images, masks, strict=True)):
            raise BadSample("mask and picture differ in size", sample, differ(masks[0].shape, images[0].shape[:2]))
        if len(images) == 1:
            return Region(id=sample, image=images[0], mask=masks[0])
        return Region(id=sample, image=images[0], mask=masks[0], image2=images[1], mask2=masks[1])


def _tally(unit: str, used: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    """Counts the files that give no pair; ``used`` [m] are places in ``names``."""
    tally = Tally(unit)
    for place in sorted(set(range(len(names))) - set(used.tolist())):
        tally.leave("no object on two frames so far apart", names[place], advice="a smaller distance takes them")
    return tally.arrays(len(names))


def _content(path: Path, sample: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as fault:
        raise BadSample("damaged annotation", sample, str(fault)) from fault
    if not isinstance(content, dict) or not isinstance(content.get("masklet"), list):
        raise BadSample("damaged annotation", sample, "no masklet")
    rate = content.get("fps", 6)  # of the annotations; sam2's own reader takes a number or a list of one for each object
    content["fps"] = rate[0] if isinstance(rate, list) and rate else rate
    if not isinstance(content["fps"], int | float):
        raise BadSample("damaged annotation", sample, f"fps is {str(rate)[:80]}")
    return content


def _pairs(root: Path, distance: int, most: int, names: tuple[str, ...]) -> np.ndarray:
    """[m, 3] int32: file, object, annotated frame. A damaged file or mask keeps a place, so that it is met and counted."""
    rows = []
    for file, name in enumerate(names):
        try:
            masklet = _content(root / name, name)["masklet"]
            visible = np.array([[_visible(cell) for cell in frame] for frame in masklet])  # [frames, objects]
        except (BadSample, TypeError, ValueError):
            rows.append((file, 0, 0))
            continue
        for thing in range(visible.shape[1] if visible.ndim == 2 else 0):
            seen = np.flatnonzero(visible[: max(0, len(visible) - distance), thing] & visible[distance:, thing])
            rows += [(file, thing, int(seen[i])) for i in spread(len(seen), most, seed=thing)]
    return np.array(rows, np.int32).reshape(-1, 3)


def _visible(cell: Any) -> bool:
    if cell is None:
        return False
    try:
        return _rle.area(cell, "") > 0
    except BadSample:
        return True
