"""RefCOCO, RefCOCO+ and RefCOCOg: one region for each expression.

Layout (lichengunc/refer): ``{root}/{dataset}/refs({split_by}).p`` and ``instances.json``; pictures of all splits are
COCO train2014's. The picture's name is taken from ``instances.json``: a ref's own ``file_name`` is another thing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from core.contracts import BadSample, Region, UserError
from plugins.datasets import _rle
from plugins.datasets._index import existing_file, existing_folder, read_json, read_picture, spread
from plugins.datasets._refs import load_refs


class Refcoco:
    """Every sentence of every ref of one split, in the file's order; the phrase is the region's caption.

    Ids are ``{dataset}/{split_by}/{ref_id}/{sent_id}``. The same picture may be in train of one ``split_by`` and in
    val of another.
    """

    def __init__(
        self,
        *,
        root: Path,
        dataset: Literal["refcoco", "refcoco+", "refcocog"] = "refcoco",
        split_by: Literal["unc", "google", "umd"] = "unc",
        split: Literal["train", "val", "testA", "testB", "test"] = "train",
        text: Literal["raw", "sent"] = "raw",
        images: Path | None = None,
        max_samples: int | None = None,
    ) -> None:
        """``text``: the sentence as typed, lower-cased (what published results use), or REFER's normalised one.
        ``images``: the folder of COCO_train2014_*.jpg where it is in none of the usual places. Raises ``UserError``."""
        if text not in ("raw", "sent"):
            raise ValueError(f"text must be raw or sent, not {text}.")
        self.root = existing_folder(root, "refcoco", f"{dataset}/refs({split_by}).p")
        refs_file = existing_file(self.root / dataset / f"refs({split_by}).p", "refcoco")
        instances_file = existing_file(self.root / dataset / "instances.json", "refcoco")
        self._folder = _picture_folder(self.root, dataset, images)
        refs = load_refs(refs_file, "refcoco")
        try:
            items = [
                (f"{dataset}/{split_by}/{ref['ref_id']}/{sentence['sent_id']}", ref["image_id"], ref["ann_id"], sentence[text])
                for ref in refs
                if ref["split"] == split
                for sentence in ref["sentences"]
            ]
            if not items:
                known = ", ".join(sorted({ref["split"] for ref in refs})) or "none"
                raise UserError(f"refcoco: {refs_file} has no expression in the split {split}; it has {known}.")
            self._items = [items[i] for i in spread(len(items), max_samples)]
            used_annotations, used_pictures = {item[2] for item in self._items}, {item[1] for item in self._items}
        except (KeyError, TypeError) as fault:
            raise UserError(f"refcoco: a ref in {refs_file} lacks {fault}; check that it is REFER's file.") from fault
        instances = read_json(instances_file, "refcoco")
        try:  # only what the chosen expressions need is kept
            self._segmentations = {one["id"]: one["segmentation"] for one in instances["annotations"] if one["id"] in used_annotations}
            self._pictures: dict[int, tuple[str, int, int]] = {
                one["id"]: (one["file_name"], one["height"], one["width"]) for one in instances["images"] if one["id"] in used_pictures
            }
        except (KeyError, TypeError) as fault:
            raise UserError(f"refcoco: {instances_file} is no COCO instances file ({fault} is missing); fetch it again.") from fault

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Region:
        sample, picture, annotation, sentence = self._items[index]
        phrase = sentence.strip().lower() if isinstance(sentence, str) else ""
        if not phrase:
            raise BadSample("blank phrase", sample)
        if picture not in self._pictures or annotation not in self._segmentations:
            raise BadSample("not in instances.json", sample, f"picture {picture}, annotation {annotation}")
        name, height, width = self._pictures[picture]
        image = read_picture(self._folder / Path(name).name, sample)  # [H, W, 3]
        if image.shape[:2] != (height, width):
            raise BadSample("mask and picture differ in size", sample, f"{(height, width)} and {image.shape[:2]}")
        mask = _rle.segmentation(self._segmentations[annotation], height, width, sample)  # [H, W]
        if not mask.any():
            raise BadSample("empty mask", sample)
        return Region(id=sample, image=image, mask=mask, caption=phrase)

    def images(self) -> list[list[int]]:
        """Item indices grouped by picture, pictures in the order of their first expression."""
        groups: dict[Any, list[int]] = {}
        for index, item in enumerate(self._items):
            groups.setdefault(item[1], []).append(index)
        return list(groups.values())

    def coco_images(self) -> set[int]:
        """COCO ids of the pictures used."""
        return {item[1] for item in self._items}


def _picture_folder(root: Path, dataset: str, images: Path | None) -> Path:
    if images is not None:
        return existing_folder(images, "refcoco", "COCO_train2014_*.jpg")
    usual = [f"{dataset}/coco2014/train2014", f"{dataset}/train2014", "coco2014/train2014", "refcoco/coco2014/train2014"]
    usual += ["train2014", "images/train2014", "images/mscoco/images/train2014"]
    for place in usual:
        if (root / place).is_dir():
            return root / place
    raise UserError(f"refcoco: no folder of COCO train2014 pictures at {root / usual[0]}; set images to where it is.")
