"""RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO and RefClef: one region for each expression.

Layout (lichengunc/refer): ``{root}/{dataset}/refs({split_by}).p`` and ``instances.json``; pictures of all splits are
COCO train2014's, RefClef's those of SAIAPR TC-12. The picture's name is taken from ``instances.json``: a ref's own ``file_name`` is
another thing. gRefCOCO (henghuiding/gRefCOCO) has ``grefs(unc).json``, whose ``ann_id`` is a list: of several targets, which are
joined, or ``[-1]`` for a phrase without one. Both files are walked once; afterwards only the wanted annotations are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from core.contracts import BadSample, Count, Region, StoredPicture, Usage, UserError
from plugins.datasets import _coco, _json, _recognize, _rle
from plugins.datasets._build import watched
from plugins.datasets._cache import cached, narrow, pack, stamp_of
from plugins.datasets._index import existing_file, existing_folder, spread
from plugins.datasets._names import named_file
from plugins.datasets._pictures import Pictures
from plugins.datasets._refs import load_refs
from plugins.datasets._text import sound
from plugins.datasets._usage import Tally, usage_of_index

_UNC, _PLAIN = ("train", "val", "testA", "testB"), ("train", "val", "test")
#: data set -> who split it, the usual one first -> its splits, as REFER distributes them (github.com/lichengunc/refer, README).
SPLITS: dict[str, dict[str, tuple[str, ...]]] = {
    "refcoco": {"unc": _UNC, "google": _PLAIN},
    "refcoco+": {"unc": _UNC},
    "refcocog": {"umd": _PLAIN, "google": ("train", "val")},
    "grefcoco": {"unc": _UNC},
    "refclef": {"unc": (*_UNC, "testC"), "berkeley": _PLAIN},
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
        dataset: Literal["refcoco", "refcoco+", "refcocog", "grefcoco", "refclef"] = "refcoco",
        split_by: Literal["unc", "google", "umd", "berkeley"] = "unc",
        split: Literal["train", "val", "testA", "testB", "testC", "test"] = "train",
        text: Literal["raw", "sent"] = "sent",
        images: Path | None = None,
        empty_masks: bool = False,
        max_samples: Count | None = None,
        draft: Count | None = None,
    ) -> None:
        """``text``: REFER's normalised sentence (``sent``, what Sa2VA's evaluation and published tables ask with), or the one as typed,
        lower-cased (``raw``, what Sa2VA was trained on).
        ``images``: the folder of COCO_train2014_*.jpg where it is in none of the usual places. ``empty_masks``: takes gRefCOCO's
        phrases without a target, for a loop that takes them. ``draft``: see ``docs/data.md``. Raises ``UserError``."""
        if text not in ("raw", "sent"):
            raise ValueError(f"text must be raw or sent, not {text}.")
        self.pictures = Pictures("refcoco", draft=draft, orientation="stored")  # as COCO's masks, and pycocotools, take them
        self.root, self.empty_masks = existing_folder(root, "refcoco", f"{dataset}/refs({split_by}).p"), empty_masks
        refs = _refs_file(self.root / dataset, split_by)
        self._refs, self._file = refs, existing_file(self.root / dataset / "instances.json", "refcoco")
        self._folder, self._name = _picture_folder(self.root, dataset, images), f"{dataset}/{split_by}"
        options = {"refs": refs.resolve(), "split": split, "text": text, "empty_masks": empty_masks, "index": 2}
        build = partial(_build, refs, self._file, split, text, empty_masks)
        self._index = cached("refcoco", options, stamp_of([refs, self._file]), lambda _: build())
        if not len(self._index["ref"]):
            raise UserError(f"refcoco: {refs} has nothing to use in the split {split}: {usage_of_index(self._index)}.")
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

    def its_files(self) -> list[Path]:
        return [self._refs, self._file]

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Region:
        row, arrays = int(self._chosen[index]), self._index
        ref, sentence, picture = (int(arrays[name][row]) for name in ("ref", "sentence", "picture"))
        sample = f"{self._name}/{ref}/{sentence}"
        phrase = sound(arrays.text("phrase", row), sample).strip().lower()
        if not phrase:
            raise BadSample("blank phrase", sample)
        targets = arrays["target"][int(arrays["target.ends"][row - 1]) if row else 0 : int(arrays["target.ends"][row])]  # [n], rows
        if picture < 0 or (targets < 0).any():
            raise BadSample("not in instances.json", sample, "its picture" if picture < 0 else "its annotation")
        file = named_file(self._folder, arrays.text("file", picture), sample, unique=bool(arrays["unique"][0]))
        height, width = (int(side) for side in arrays["size"][picture])
        if min(height, width) < 1:
            raise BadSample("no size in instances.json", sample, arrays.text("file", picture))
        mask = np.zeros((height, width), bool)
        for target in targets:
            begin, length = (int(arrays[name][target]) for name in ("begin", "length"))
            mask |= _rle.annotated(_json.read_object(self._file, begin, length, sample), height, width, sample)  # [H, W]
        image, factor = self.pictures.view(file, sample, mask.shape)  # [H, W, 3]
        if not len(targets):  # a phrase without one: nothing of the picture is meant
            return Region(id=sample, image=image, mask=np.zeros(image.shape[:2], bool), caption=phrase)
        return Region(id=sample, image=image, mask=_rle.reduced(mask, factor, sample), caption=phrase)

    def picture_files(self) -> Iterator[StoredPicture]:
        """Of the expressions taken."""
        return _coco.stored(self._folder, self._index, np.asarray(self._chosen))

    def usage(self) -> list[Usage]:
        """Of the expressions of the split."""
        return [usage_of_index(self._index, len(self._chosen), len(self._index["ref"]))]

    def images(self) -> list[list[int]]:
        """Item indices grouped by picture, pictures in the order of their first expression."""
        groups: dict[int, list[int]] = {}
        for index, picture in enumerate(self._index["picture"][np.asarray(self._chosen)].tolist()):
            groups.setdefault(picture, []).append(index)
        return list(groups.values())

    def coco_images(self) -> set[int]:
        """COCO ids of the pictures used; none of RefClef, whose pictures are others."""
        if self._name.startswith("refclef/"):
            return set()
        used = np.unique(self._index["picture"][np.asarray(self._chosen)])
        return set(self._index["image_id"][used[used >= 0]].tolist()) - {-1}


def _refs_file(folder: Path, split_by: str) -> Path:
    """``refs(...).p``, or gRefCOCO's ``grefs(...)`` as pickle or JSON. Raises ``UserError`` with the names of those that are there."""
    names = [f"{kind}({split_by}).{suffix}" for kind in ("refs", "grefs") for suffix in ("p", "json")]
    if found := next((folder / name for name in names if (folder / name).is_file()), None):
        return found
    if others := ", ".join(sorted(path.name for path in folder.glob("*refs(*).*"))):
        raise UserError(f"refcoco: {folder / names[0]} is missing, but there is {others}; set split_by to what stands in the brackets.")
    return existing_file(folder / names[0], "refcoco")


def _load(refs_file: Path) -> list[dict[str, Any]]:
    if refs_file.suffix == ".p":
        return load_refs(refs_file, "refcoco")
    refs = _json.read_json(refs_file, "refcoco")
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise UserError(f"refcoco: {refs_file} is no list of refs; check that it is gRefCOCO's file.")
    return refs


def _targets(ref: dict[str, Any]) -> list[Any]:
    """The annotations that a ref means: one, several, or none."""
    given = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
    return [] if ref.get("no_target") or given == [-1] else given


def _build(refs_file: Path, instances_file: Path, split: str, text: str, empty_masks: bool) -> dict[str, np.ndarray]:
    """For each expression of the split its ids, phrase and rows in the tables of pictures and annotations, -1 where absent; of
    ``instances.json`` only what they need. ``target``: the rows of all targets, ``target.ends`` where those of each expression end."""
    refs, tally = _load(refs_file), Tally(f"expressions of {split}")
    numbers, pictures, targets, phrases = list[tuple[int, int]](), list[Any](), list[list[Any]](), list[str]()
    try:
        for ref in refs:
            if ref["split"] != split:
                continue
            sentences, picture = ref["sentences"], _coco.key_of(ref["image_id"])
            meant = [_coco.key_of(one) for one in _targets(ref)]
            for sentence in sentences:
                number = (ref["ref_id"], sentence["sent_id"])
                if not meant and not empty_masks:
                    tally.leave("no target", "/".join(map(str, number)), advice="empty_masks: true takes them")
                    continue
                if type(number[0]) is not int or type(number[1]) is not int:
                    raise UserError(f"refcoco: {refs_file} has an id that is no number ({number!r}); check that it is REFER's file.")
                numbers.append(number)
                pictures.append(picture)
                targets.append(meant)
                phrases.append(sentence[text] if isinstance(sentence[text], str) else "")
        ids = np.array(numbers, np.int64).reshape(-1, 2)  # [n, 2] ref, sentence
        entries = len(numbers) + sum(one.count for one in tally.left)
        if not entries:
            known = ", ".join(sorted({ref["split"] for ref in refs})) or "none"
            raise UserError(f"refcoco: {refs_file} has no expression in the split {split}; it has {known}.")
    except (KeyError, TypeError, OverflowError) as fault:
        other = "raw" if text == "sent" else "sent"
        advice = f"text: {other} takes that field, if it is there" if fault.args == (text,) else "check that it is REFER's file"
        raise UserError(f"refcoco: a ref in {refs_file} lacks {fault}; {advice}.") from fault
    try:
        document = _json.Document(instances_file, "refcoco")
        places = _coco.places_of(document, "refcoco")
        rows_of_pictures, table = _coco.pictures_of(document, places["images"], "refcoco", set(pictures))
        wanted, once, spans = (
            {key for keys in targets for key in keys},
            _coco.Once(document, "annotations", "refcoco"),
            list[tuple[int, int]](),
        )
        found = _coco.objects(document, places["annotations"], "annotations", "refcoco")
        for one, begin, end in watched("refcoco", len(document), found):
            key = one.get("id")
            if (key if type(key) is int else (key := _coco.key_of(key))) in wanted:
                once.add(key, begin)
                spans.append(document.span(begin, end))
    except (ValueError, RecursionError) as fault:
        raise UserError(f"refcoco: {instances_file} cannot be read as JSON ({fault}): it is cut or damaged; fetch it again.") from fault
    place = np.array(spans, np.int64).reshape(-1, 2)
    return {
        "ref": narrow(ids[:, 0]),
        "sentence": narrow(ids[:, 1]),
        "picture": np.array([rows_of_pictures.get(key, -1) for key in pictures], np.int32),
        "target": np.array([once.rows.get(key, -1) for keys in targets for key in keys], np.int32),
        "target.ends": np.cumsum([len(keys) for keys in targets], dtype=np.int64).astype(np.int32),
        "begin": narrow(place[:, 0]),
        "length": place[:, 1].astype(np.int32),
        **table,
        "image_id": np.array([key if isinstance(key, int) and abs(key) < 2**62 else -1 for key in rows_of_pictures], np.int64),
        **pack("phrase", phrases),
        **tally.arrays(entries),
    }


def _picture_folder(root: Path, dataset: str, images: Path | None) -> Path:
    holds, what = ("saiapr_tc-12", "SAIAPR TC-12") if dataset == "refclef" else ("train2014", "COCO train2014")
    if images is not None:
        return existing_folder(images, "refcoco", f"the pictures of {what}")
    before = (f"{dataset}/coco2014", dataset, "coco2014", "refcoco/coco2014", "", "images", "images/mscoco/images", "images/mscoco")
    for place in before:
        if (root / place / holds).is_dir():
            return root / place / holds
    raise UserError(f"refcoco: no folder of {what} pictures at {root / before[0] / holds}; set images to where it is.")
