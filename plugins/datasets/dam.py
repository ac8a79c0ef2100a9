"""The Describe Anything Dataset: described regions of six splits, in WebDataset tars.

Layout: ``{root}/{SPLIT}/annotations.json`` and ``{root}/{SPLIT}/images/{00000000..}.tar``. ``annotations.json`` maps a
key to a region or a list of regions; a region has ``caption``, ``mask_rle``, ``image`` and ``tar_file``. In SAV one
region spans several frames ``{key}.{t}.jpg`` and ``mask_rle`` is a list, one mask for each. The tars' ``.pickle``
members are never opened: all they hold is in ``annotations.json``. Known from third-party readers of the real data.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from core.contracts import BadSample, Region, UserError
from plugins.datasets import _rle, _tar
from plugins.datasets._index import existing_folder, read_json, read_picture, spread

_FRAME = re.compile(r"(.+)\.(\d{1,9})\.jpe?g")  # key . number . jpg
_TAGS = re.compile(r"\s*<(?:image|video)>\s*")


class Dam:
    """Regions with descriptions; ids are ``{split}/{key}/{place among the key's regions}``.

    Of several frames the one with the largest mask is taken, the first of equals.
    """

    def __init__(
        self,
        *,
        root: Path,
        split: Literal["SAV", "COCOStuff", "LVIS", "Mapillary", "OpenImages", "PACO"],
        max_samples: int | None = None,
    ) -> None:
        """``max_samples`` regions spread over the sorted keys. Raises ``UserError`` where there is none."""
        self.split = split
        root = existing_folder(root, f"dam.{split.lower()}", f"{split}/annotations.json")
        unpacked = (root, root / root.name, root / "describe-anything-dataset")  # copies often hold the folder twice
        self.folder = next((one / split for one in unpacked if (one / split).is_dir()), root / split)
        annotations = read_json(self.folder / "annotations.json", f"dam.{split.lower()}")
        if not isinstance(annotations, dict):
            raise UserError(f"dam.{split.lower()}: {self.folder / 'annotations.json'} is no mapping of keys to regions; fetch it again.")
        rows = [
            (key, place, region)
            for key in sorted(annotations)
            for place, region in enumerate(annotations[key] if isinstance(annotations[key], list) else [annotations[key]])
        ]
        if not rows:
            raise UserError(f"dam.{split.lower()}: {self.folder / 'annotations.json'} describes no region; check root.")
        self._rows: list[tuple[str, int, Any]] = [rows[i] for i in spread(len(rows), max_samples)]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Region:
        key, place, region = self._rows[index]
        sample = f"{self.split.lower()}/{key}/{place}"
        if not isinstance(region, dict) or "mask_rle" not in region:
            raise BadSample("damaged annotation", sample, "no region with a mask_rle")
        caption = region.get("caption")
        caption = _TAGS.sub(" ", caption).strip() if isinstance(caption, str) else ""  # the tags mean "picture here" to chat code
        if not caption:
            raise BadSample("blank caption", sample)
        masks = region["mask_rle"] if isinstance(region["mask_rle"], list) else [region["mask_rle"]]
        areas = [_rle.area(mask, sample) for mask in masks]
        if not any(areas):
            raise BadSample("empty mask", sample)
        chosen = areas.index(max(areas))
        tar, name = self._member(key, region, chosen, len(masks), sample)
        image = read_picture(_tar.read(tar, name, sample), sample)  # [H, W, 3]
        mask = _rle.decode(masks[chosen], sample)  # [H, W]
        if image.shape[:2] != mask.shape:
            raise BadSample("mask and picture differ in size", sample, f"{mask.shape} and {image.shape[:2]}")
        return Region(id=sample, image=image, mask=mask, caption=caption)

    def images(self) -> list[list[int]]:
        """Indices grouped by picture, in order."""
        groups: dict[str, list[int]] = {}
        for index, (key, _, _) in enumerate(self._rows):
            groups.setdefault(key, []).append(index)
        return list(groups.values())

    def _member(self, key: str, region: dict[str, Any], frame: int, frames: int, sample: str) -> tuple[Path, str]:
        """The tar and the member that hold the picture. Only the tar that the annotation names is looked into."""
        images = self.folder / "images"
        tar_file = region.get("tar_file")
        tars = [images / PurePosixPath(tar_file).name] if isinstance(tar_file, str) else sorted(images.glob("*.tar"))
        for tar in tars:
            members = _tar.members(tar, sample)
            names = _frame_names(members, key, region, frame, frames) if self.split == "SAV" else _picture_names(key, region)
            for name in names:
                if name in members:
                    return tar, name
        raise BadSample("missing member", sample, f"{region.get('image')} in {tar_file or images}")


def _picture_names(key: str, region: dict[str, Any]) -> list[str]:
    """Names under which one picture may lie in a tar: as annotated, and with other zero padding."""
    image = region.get("image")
    names = [image, PurePosixPath(image).name] if isinstance(image, str) else []
    names.append(f"{key}.jpg")
    stems = [PurePosixPath(name).stem for name in names]
    numbers = [int(stem) for stem in stems if stem.isascii() and stem.isdigit() and len(stem) < 20]
    return [*names, *(f"{number}.jpg" for number in numbers), *(f"{number:012d}.jpg" for number in numbers)]


def _frame_names(members: dict[str, tuple[int, int]], key: str, region: dict[str, Any], frame: int, frames: int) -> list[str]:
    """Names of frame number ``frame``. Frames are ordered by number: as text, 10 would come before 2."""
    image = region.get("image")
    listed = [name for name in image if isinstance(name, str)] if isinstance(image, list) else []
    stems = [image.removesuffix(".jpg")] if isinstance(image, str) else []
    keys = [key, *stems, f"{region.get('video_id')}_{region.get('ann_id')}", str(region.get("video_id"))]
    found = [match for name in [*listed, *members] if (match := _FRAME.fullmatch(PurePosixPath(name).name))]
    for wanted in [*dict.fromkeys(keys), *(match[1] for match in found[: len(listed)])]:
        numbered = {int(match[2]): match[0] for match in found if match[1] == wanted}
        if numbered:
            by_rank = [numbered[number] for number in sorted(numbered)]
            return [by_rank[frame]] if len(by_rank) == frames else [numbered[frame]] if frame in numbered else []
    return [f"{key}.jpg", *stems]


def sav(*, root: Path, max_samples: int | None = None) -> Dam:
    """Described objects of SA-V videos, several frames each."""
    return Dam(root=root, split="SAV", max_samples=max_samples)


def cocostuff(*, root: Path, max_samples: int | None = None) -> Dam:
    """Described regions of COCO-Stuff."""
    return Dam(root=root, split="COCOStuff", max_samples=max_samples)


def lvis(*, root: Path, max_samples: int | None = None) -> Dam:
    """Described regions of LVIS."""
    return Dam(root=root, split="LVIS", max_samples=max_samples)


def mapillary(*, root: Path, max_samples: int | None = None) -> Dam:
    """Described regions of Mapillary street scenes."""
    return Dam(root=root, split="Mapillary", max_samples=max_samples)


def openimages(*, root: Path, max_samples: int | None = None) -> Dam:
    """Described regions of Open Images."""
    return Dam(root=root, split="OpenImages", max_samples=max_samples)


def paco(*, root: Path, max_samples: int | None = None) -> Dam:
    """Described parts and objects of PACO."""
    return Dam(root=root, split="PACO", max_samples=max_samples)
