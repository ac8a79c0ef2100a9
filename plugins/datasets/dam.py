"""The Describe Anything Dataset: described regions of seven splits, in WebDataset tars.

Layout: ``{root}/{SPLIT}/annotations.json`` and ``{root}/{SPLIT}/images/{00000000..}.tar``. ``annotations.json`` maps a
key to a region or a list of regions; a region has ``caption``, ``mask_rle``, ``image`` and ``tar_file``. In SAV one
region spans several frames ``{key}.{t}.jpg`` and ``mask_rle`` is a list, one mask for each. Of ``annotations.json`` only
the places of the regions are kept. The tars' ``.pickle`` members are never opened: all they hold is in
``annotations.json``. Known from third-party readers of the real data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from core.contracts import BadSample, Count, Region, StoredPicture, Usage, UserError, offers
from plugins.datasets import _json, _recognize, _rle, _tar
from plugins.datasets._build import watched
from plugins.datasets._cache import cached, pack, stamp_of
from plugins.datasets._index import existing_file, existing_folder, spread
from plugins.datasets._pictures import Pictures
from plugins.datasets._text import sound
from plugins.datasets._usage import Tally, usage_of_index

_FRAME = re.compile(r"(.+)\.(\d{1,9})\.jpe?g")  # key . number . jpg
_COCO_ID = re.compile(r"(?:.*\D)?(\d{1,12})")  # also COCO_train2014_000000000139
_TAGS = re.compile(r"\s*<(?:image|video)>\s*")


class Dam:
    """Regions with descriptions; ids are ``{split}/{key}/{place among the key's regions}``.

    Of several frames the one with the largest mask is taken, the first of equals.
    """

    def __init__(
        self,
        *,
        root: Path,
        split: Literal["SAV", "COCOStuff", "LVIS", "Mapillary", "OpenImages", "PACO", "SAM"],
        max_samples: Count | None = None,
        draft: Count | None = None,
    ) -> None:
        """``max_samples`` regions spread over the sorted keys. ``draft``: see ``docs/data.md``. Raises ``UserError`` where there
        is no region."""
        self.split = split
        self.pictures = Pictures(f"dam.{split.lower()}", draft=draft, orientation="stored")  # its masks are of its sources' own pixels
        root = existing_folder(root, f"dam.{split.lower()}", f"{split}/annotations.json")
        unpacked = (root, root / root.name, root / "describe-anything-dataset")  # copies often hold the folder twice
        self.folder = next((one / split for one in unpacked if (one / split).is_dir()), root / split)
        source = f"dam.{split.lower()}"
        self._file = existing_file(self.folder / "annotations.json", source)
        self._index = cached(source, {"file": self._file.resolve()}, stamp_of([self._file]), lambda _: _build(self._file, source))
        count = len(self._index["rows"])
        if not count:
            raise UserError(f"{source}: {self._file} describes no region; check root.")
        self._chosen = spread(count, max_samples)

    def its_files(self) -> list[Path]:
        return [self._file]

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Region:
        sample, key, region = self._described(index)
        caption = region.get("caption")
        caption = (
            _TAGS.sub(" ", sound(caption, sample)).strip() if isinstance(caption, str) else ""
        )  # the tags mean "picture here" to chat code
        if not caption:
            raise BadSample("blank caption", sample)
        tar, name, rle = self._shown(key, region, sample)
        image, factor = self.pictures.view(_tar.read(tar, name, sample), sample, tuple(rle["size"]))  # [H, W, 3]
        return Region(id=sample, image=image, mask=_rle.decode(rle, sample, factor), caption=caption)

    def _described(self, index: int) -> tuple[str, str, dict[str, Any]]:
        """Its id, its key, and what ``annotations.json`` says of it."""
        row = self._chosen[index]
        key_number, place, length = (int(value) for value in self._index["rows"][row])
        key = self._index.text("key", key_number)
        sample = f"{self.split.lower()}/{key}/{place}"
        region = _json.read_object(self._file, int(self._index["begin"][row]), length, sample)
        if "mask_rle" not in region:
            raise BadSample("damaged annotation", sample, "no mask_rle")
        return sample, key, region

    def _shown(self, key: str, region: dict[str, Any], sample: str) -> tuple[Path, str, Any]:
        """The tar and the member with the picture, and the mask in it."""
        masks = region["mask_rle"] if isinstance(region["mask_rle"], list) else [region["mask_rle"]]
        areas = [_rle.area(mask, sample) for mask in masks]
        if not any(areas):
            raise BadSample("empty mask", sample)
        chosen = areas.index(max(areas))
        tar, name = self._member(key, region, chosen, len(masks), sample)
        return tar, name, masks[chosen]

    def picture_files(self) -> Iterator[StoredPicture]:
        """The members of the tars that are named by the key of a region taken; of SAV the frames that are shown."""
        if self.split == "SAV":
            yield from self._frames()
            return
        used = np.unique(self._index["rows"][np.asarray(self._chosen), 0]).tolist()
        names = {name for key in (self._index.text("key", row) for row in used) for name in _picture_names(key, {})}
        for tar in sorted((self.folder / "images").glob("*.tar")):
            with suppress(BadSample):  # counted where it is drawn from
                for name, offset, size in _tar.members(tar, "").all():
                    if PurePosixPath(name).name in names:
                        yield StoredPicture(tar, offset, size)

    def _frames(self) -> Iterator[StoredPicture]:
        known = set[tuple[Path, str]]()
        for index in range(len(self)):
            with suppress(BadSample):  # counted where it is drawn
                sample, key, region = self._described(index)
                tar, name, _ = self._shown(key, region, sample)
                place = _tar.members(tar, sample).find(name)
                if place is not None and (tar, name) not in known:
                    known.add((tar, name))
                    yield StoredPicture(tar, *place)

    def usage(self) -> list[Usage]:
        """Of the regions that ``annotations.json`` lists."""
        return [usage_of_index(self._index, len(self._chosen), len(self._index["rows"]))]

    def images(self) -> list[list[int]]:
        """Indices grouped by picture, in order."""
        groups: dict[int, list[int]] = {}
        for index, key in enumerate(self._index["rows"][np.asarray(self._chosen), 0].tolist()):
            groups.setdefault(key, []).append(index)
        return list(groups.values())

    def coco_images(self) -> set[int]:
        """COCO ids of the pictures used, in the splits made of COCO pictures."""
        if self.split not in ("COCOStuff", "LVIS", "PACO"):
            return set()
        keys = (self._index.text("key", int(row)) for row in np.unique(self._index["rows"][np.asarray(self._chosen), 0]))
        return {int(match[1]) for key in keys if (match := _COCO_ID.fullmatch(key))}

    def _member(self, key: str, region: dict[str, Any], frame: int, frames: int, sample: str) -> tuple[Path, str]:
        """The tar and the member that hold the picture. Only the tar that the annotation names is looked into."""
        images = self.folder / "images"
        tar_file = region.get("tar_file")
        tars = [images / PurePosixPath(tar_file).name] if isinstance(tar_file, str) else sorted(images.glob("*.tar"))
        for tar in tars:
            members = _tar.members(tar, sample)
            names = _frame_names(members, key, region, frame, frames) if self.split == "SAV" else _picture_names(key, region)
            for name in names:
                if members.find(name) is not None:
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


def _frame_names(members: _tar.Members, key: str, region: dict[str, Any], frame: int, frames: int) -> list[str]:
    """Names of frame number ``frame``. Frames are ordered by number: as text, 10 would come before 2."""
    image = region.get("image")
    listed = [name for name in image if isinstance(name, str)] if isinstance(image, list) else []
    stems = [image.removesuffix(".jpg")] if isinstance(image, str) else []
    keys = [key, *stems, f"{region.get('video_id')}_{region.get('ann_id')}", str(region.get("video_id"))]
    of_list = [match for name in listed if (match := _FRAME.fullmatch(PurePosixPath(name).name))]
    for wanted in dict.fromkeys([*keys, *(match[1] for match in of_list)]):
        found = [match for name in members.beginning(f"{wanted}.") if (match := _FRAME.fullmatch(name)) and match[1] == wanted]
        numbered = {int(match[2]): match[0] for match in found}
        if numbered:
            by_rank = [numbered[number] for number in sorted(numbered)]
            return [by_rank[frame]] if len(by_rank) == frames else [numbered[frame]] if frame in numbered else []
    return [f"{key}.jpg", *stems]


def _build(path: Path, source: str) -> dict[str, np.ndarray]:
    """Keys in order and, for each region, [n, 3] int32 key, place and length, and [n] int64 where its JSON begins."""
    places, tally, entries = dict[str, list[tuple[int, int]]](), Tally("regions"), 0
    try:
        document = _json.Document(path, source)
        for key, begin, end in watched(source, len(document), document.members()):
            of_list = document.is_array(begin)
            found = [(first, last) for _, first, last in document.elements(begin)] if of_list else [(begin, end)]
            entries += max(1, len(found))
            if not found:
                tally.leave("key without a region", key)
            places[key] = [document.span(first, last) for first, last in found]
    except (ValueError, RecursionError) as fault:
        raise UserError(f"{source}: {path} is no mapping of keys to regions, or damaged ({fault}).") from fault
    keys = sorted(places)
    rows = [(number, place, length) for number, key in enumerate(keys) for place, (_, length) in enumerate(places[key])]
    begins = [begin for key in keys for begin, _ in places[key]]
    arrays: dict[str, np.ndarray] = {"rows": np.array(rows, np.int32).reshape(-1, 3), "begin": np.array(begins, np.int64)}
    return pack("key", keys) | arrays | tally.arrays(entries)


@offers(recognizes=_recognize.dam("SAV"))
def sav(*, root: Path, max_samples: Count | None = None, draft: Count | None = None) -> Dam:
    """Described objects of SA-V videos, several frames each."""
    return Dam(root=root, split="SAV", max_samples=max_samples, draft=draft)


@offers(recognizes=_recognize.dam("COCOStuff"))
def cocostuff(*, root: Path, max_samples: Count | None = None, draft: Count | None = None) -> Dam:
    """Described regions of COCO-Stuff."""
    return Dam(root=root, split="COCOStuff", max_samples=max_samples, draft=draft)


@offers(recognizes=_recognize.dam("LVIS"))
def lvis(*, root: Path, max_samples: Count | None = None, draft: Count | None = None) -> Dam:
    """Described regions of LVIS."""
    return Dam(root=root, split="LVIS", max_samples=max_samples, draft=draft)


@offers(recognizes=_recognize.dam("Mapillary"))
def mapillary(*, root: Path, max_samples: Count | None = None, draft: Count | None = None) -> Dam:
    """Described regions of Mapillary street scenes."""
    return Dam(root=root, split="Mapillary", max_samples=max_samples, draft=draft)


@offers(recognizes=_recognize.dam("OpenImages"))
def openimages(*, root: Path, max_samples: Count | None = None, draft: Count | None = None) -> Dam:
    """Described regions of Open Images."""
    return Dam(root=root, split="OpenImages", max_samples=max_samples, draft=draft)


@offers(recognizes=_recognize.dam("PACO"))
def paco(*, root: Path, max_samples: Count | None = None, draft: Count | None = None) -> Dam:
    """Described parts and objects of PACO."""
    return Dam(root=root, split="PACO", max_samples=max_samples, draft=draft)


@offers(recognizes=_recognize.dam("SAM"))
def sam(*, root: Path, max_samples: Count | None = None, draft: Count | None = None) -> Dam:
    """Described regions of SA-1B."""
    return Dam(root=root, split="SAM", max_samples=max_samples, draft=draft)
