"""RefCOCO, RefCOCO+ and RefCOCOg: one region for each expression.

Layout (lichengunc/refer): ``{root}/{dataset}/refs({split_by}).p`` and ``instances.json``; pictures of all splits are
COCO train2014's. The picture's name is taken from ``instances.json``: a ref's own ``file_name`` is another thing. Both
files are walked once; afterwards only the wanted annotation is read.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from core.contracts import BadSample, Count, Region, UserError
from plugins.datasets import _json, _recognize, _rle
from plugins.datasets._build import watched
from plugins.datasets._cache import cached, narrow, pack, stamp_of
from plugins.datasets._index import existing_file, existing_folder, spread
from plugins.datasets._pictures import Pictures
from plugins.datasets._refs import load_refs

_UNC, _PLAIN = ("train", "val", "testA", "testB"), ("train", "val", "test")
#: data set -> who split it, the usual one first -> its splits, as REFER distributes them (github.com/lichengunc/refer, README).
SPLITS: dict[str, dict[str, tuple[str, ...]]] = {
    "refcoco": {"unc": _UNC, "google": _PLAIN},
    "refcoco+": {"unc": _UNC},
    "refcocog": {"umd": _PLAIN, "google": ("train", "val")},
}


class Refcoco:
    """Every sentence of every ref of one split, in the file's order; the phrase is the region's caption.

    Ids are ``{dataset}/{split_by}/{ref_id}/{sent_id}``. The same picture may be in train of one ``split_by`` and in
    val of another.
    """

    recognizes = staticmethod(_recognize.refcoco)

    def __init__(
        self,
        *,
        root: Path,
        dataset: Literal["refcoco", "refcoco+", "refcocog"] = "refcoco",
        split_by: Literal["unc", "google", "umd"] = "unc",
        split: Literal["train", "val", "testA", "testB", "test"] = "train",
        text: Literal["raw", "sent"] = "raw",
        images: Path | None = None,
        max_samples: Count | None = None,
        draft: Count | None = None,
    ) -> None:
        """``text``: the sentence as typed, lower-cased (``raw``, what Sa2VA was trained on), or REFER's normalised one (``sent``, what
        its evaluation and most papers ask with).
        ``images``: the folder of COCO_train2014_*.jpg where it is in none of the usual places. ``draft``: see
        ``docs/data.md``. Raises ``UserError``."""
        if text not in ("raw", "sent"):
            raise ValueError(f"text must be raw or sent, not {text}.")
        self.pictures = Pictures("refcoco", draft=draft, orientation="stored")  # as COCO's masks, and pycocotools, take them
        self.root = existing_folder(root, "refcoco", f"{dataset}/refs({split_by}).p")
        refs = self.root / dataset / f"refs({split_by}).p"
        if not refs.is_file() and (others := ", ".join(sorted(path.name for path in refs.parent.glob("refs(*).p")))):
            raise UserError(f"refcoco: {refs} is missing, but there is {others}; set split_by to what stands in the brackets.")
        refs = existing_file(refs, "refcoco")
        self._file = existing_file(self.root / dataset / "instances.json", "refcoco")
        self._folder, self._name = _picture_folder(self.root, dataset, images), f"{dataset}/{split_by}"
        options = {"refs": refs.resolve(), "split": split, "text": text}
        build = partial(_build, refs, self._file, split, text)
        self._index = cached("refcoco", options, stamp_of([refs, self._file]), lambda _: build())
        self._chosen = spread(len(self._index["ref"]), max_samples)

    @staticmethod
    def check_keys(**given: Any) -> None:
        """Raises ``UserError`` for a split that REFER does not have, before any file is read; see ``ChecksKeys``."""
        dataset, split_by, split = given.get("dataset", "refcoco"), given.get("split_by", "unc"), given.get("split", "train")
        there = SPLITS[dataset]
        if split_by not in there:
            raise UserError(f"dataset {dataset} is split by {' or '.join(there)}, not by {split_by}: write split_by={next(iter(there))}")
        if split not in there[split_by]:
            raise UserError(f"split {split} is not there: {dataset} by {split_by} has {', '.join(there[split_by])}")

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Region:
        row, arrays = int(self._chosen[index]), self._index
        ref, sentence, picture, annotation = (int(arrays[name][row]) for name in ("ref", "sentence", "picture", "annotation"))
        sample = f"{self._name}/{ref}/{sentence}"
        phrase = arrays.text("phrase", row).strip().lower()
        if not phrase:
            raise BadSample("blank phrase", sample)
        if picture < 0 or annotation < 0:
            raise BadSample("not in instances.json", sample, "its picture" if picture < 0 else "its annotation")
        begin, length = (int(arrays[name][annotation]) for name in ("begin", "length"))
        height, width = (int(side) for side in arrays["size"][picture])
        mask = _rle.annotated(_json.read_object(self._file, begin, length, sample), height, width, sample)  # [H, W]
        image, factor = self.pictures.view(self._folder / Path(arrays.text("file", picture)).name, sample, mask.shape)  # [H, W, 3]
        return Region(id=sample, image=image, mask=_rle.reduced(mask, factor, sample), caption=phrase)

    def images(self) -> list[list[int]]:
        """Item indices grouped by picture, pictures in the order of their first expression."""
        groups: dict[int, list[int]] = {}
        for index, picture in enumerate(self._index["picture"][np.asarray(self._chosen)].tolist()):
            groups.setdefault(picture, []).append(index)
        return list(groups.values())

    def coco_images(self) -> set[int]:
        """COCO ids of the pictures used."""
        used = np.unique(self._index["picture"][np.asarray(self._chosen)])
        return set(self._index["image_id"][used[used >= 0]].tolist())


def _build(refs_file: Path, instances_file: Path, split: str, text: str) -> dict[str, np.ndarray]:
    """For each expression of the split its ids, phrase and rows in the tables of pictures and annotations, -1 where absent; of
    ``instances.json`` only what they need."""
    refs = load_refs(refs_file, "refcoco")
    try:
        items = [
            (ref["ref_id"], sentence["sent_id"], ref["image_id"], ref["ann_id"], sentence[text])
            for ref in refs
            if ref["split"] == split
            for sentence in ref["sentences"]
        ]
        if not items:
            known = ", ".join(sorted({ref["split"] for ref in refs})) or "none"
            raise UserError(f"refcoco: {refs_file} has no expression in the split {split}; it has {known}.")
        if wrong := next((value for item in items for value in item[:4] if type(value) is not int), None):
            raise UserError(f"refcoco: {refs_file} has an id that is no number ({wrong!r}); check that it is REFER's file.")
        ids = np.array([item[:4] for item in items], np.int64)  # [n, 4] ref, sentence, picture, annotation
    except (KeyError, TypeError, OverflowError) as fault:
        raise UserError(f"refcoco: a ref in {refs_file} lacks {fault}; check that it is REFER's file.") from fault
    content = _json.read_text(instances_file, "refcoco")
    wanted = [set(ids[:, 2].tolist()), set(ids[:, 3].tolist())]
    try:
        places = {key: begin for key, begin, _ in _json.members(content)}
        pictures = {one["id"]: one for one, _, _ in _json.elements(content, places["images"]) if one["id"] in wanted[0]}
        found = watched("refcoco", len(content), _json.elements(content, places["annotations"]))
        annotations = {one["id"]: (begin, end - begin) for one, begin, end in found if one["id"] in wanted[1]}
        place = np.array(list(annotations.values()), np.int64).reshape(-1, 2)
        rows = [{key: row for row, key in enumerate(table)} for table in (pictures, annotations)]
        return {
            "ref": narrow(ids[:, 0]),
            "sentence": narrow(ids[:, 1]),
            "picture": np.array([rows[0].get(key, -1) for key in ids[:, 2].tolist()], np.int32),
            "annotation": np.array([rows[1].get(key, -1) for key in ids[:, 3].tolist()], np.int32),
            "begin": narrow(place[:, 0]),
            "length": place[:, 1].astype(np.int32),
            "size": np.array([(one["height"], one["width"]) for one in pictures.values()], np.int32).reshape(-1, 2),
            "image_id": np.array(list(pictures), np.int64),
            **pack("phrase", [item[4] if isinstance(item[4], str) else "" for item in items]),
            **pack("file", [_json.utf8(one["file_name"]) for one in pictures.values()]),
        }
    except (KeyError, TypeError, AttributeError, OverflowError) as fault:
        raise UserError(f"refcoco: {instances_file} is no COCO instances file ({fault} is missing); fetch it again.") from fault
    except (ValueError, RecursionError) as fault:
        raise UserError(f"refcoco: {instances_file} cannot be read as JSON ({fault}); fetch it again.") from fault


def _picture_folder(root: Path, dataset: str, images: Path | None) -> Path:
    if images is not None:
        return existing_folder(images, "refcoco", "COCO_train2014_*.jpg")
    usual = [f"{dataset}/coco2014/train2014", f"{dataset}/train2014", "coco2014/train2014", "refcoco/coco2014/train2014"]
    usual += ["train2014", "images/train2014", "images/mscoco/images/train2014"]
    for place in usual:
        if (root / place).is_dir():
            return root / place
    raise UserError(f"refcoco: no folder of COCO train2014 pictures at {root / usual[0]}; set images to where it is.")
