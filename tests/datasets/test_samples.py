"""The readers on samples of the real data sets; skipped where those are not at hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco

from core.contracts import BadSample, UserError
from plugins.datasets import _rle, dam
from plugins.datasets._json import read_json
from plugins.datasets._refs import load_refs
from plugins.datasets.openimages import OpenImages
from plugins.datasets.refcoco import Refcoco
from plugins.datasets.sa1b import Sa1b
from plugins.datasets.sav_pairs import SavPairs


def test_pair(samples: Path) -> None:
    region = SavPairs(root=samples / "sav_npz")[0]
    assert region.image.shape == (512, 512, 3)
    assert region.image2 is not None
    assert region.mask.sum() == 52_179
    stored = np.load(samples / "sav_npz" / "masklet_data_01284.npz")
    np.testing.assert_array_equal(region.image[..., ::-1], stored["frame1"].astype(np.uint8))


def test_sa1b_with_a_hole_and_two_parts(samples: Path) -> None:
    dataset = Sa1b(root=samples / "fabricated" / "sa1b")
    assert [int(dataset[i].mask.sum()) for i in range(len(dataset))] == [75_377, 245_001, 76_320, 33_906]
    assert dataset[0].image.shape == (1500, 2250, 3)


def test_openimages(samples: Path, tmp_path: Path) -> None:
    root = samples / "openimages"
    dataset = OpenImages(root=root, caption="class_name")
    regions = [dataset[i] for i in range(len(dataset))]
    assert {region.caption for region in regions} == {"Taxi"}
    for region, row in zip(regions, (root / "train-annotations-object-segmentation.csv").read_text().splitlines()[1:], strict=True):
        height, width = region.mask.shape
        rows, columns = np.nonzero(region.mask)
        box = [columns.min() / width, (columns.max() + 1) / width, rows.min() / height, (rows.max() + 1) / height]
        np.testing.assert_allclose(box, [float(value) for value in row.split(",")[4:8]], atol=0.004)
    name = "train-annotations-object-segmentation"
    shutil.copy(root / f"{name}.real-rows-no-media.csv", tmp_path / f"{name}.csv")
    real_rows = OpenImages(root=tmp_path)
    assert len(real_rows) == 4
    with pytest.raises(BadSample, match="missing picture"):
        real_rows[0]


def test_refcoco_tree_with_a_crowd(samples: Path) -> None:
    root = samples / "fabricated" / "ref_seg"
    splits = sorted({ref["split"] for ref in load_refs(root / "refcoco" / "refs(unc).p", "test")})
    assert {"train", "val"} <= set(splits)
    annotations = {one["id"]: one for one in read_json(root / "refcoco" / "instances.json", "test")["annotations"]}
    of_ref = {ref["ref_id"]: ref["ann_id"] for ref in load_refs(root / "refcoco" / "refs(unc).p", "test")}
    for split in splits:
        dataset = Refcoco(root=root, split=split)  # type: ignore[arg-type]
        for index in range(len(dataset)):
            region = dataset[index]
            x, y, width, height = annotations[of_ref[int(region.id.split("/")[2])]]["bbox"]
            rows, columns = np.nonzero(region.mask)
            np.testing.assert_allclose([columns.min(), rows.min()], [x, y], atol=2)
            np.testing.assert_allclose([columns.max() + 1, rows.max() + 1], [x + width, y + height], atol=2)
            assert region.caption == (region.caption or "").lower()


def test_real_refs_in_both_splits_by(samples: Path) -> None:
    root = samples / "refcoco_text_slice"
    for split_by in ("unc", "google"):
        refs = load_refs(root / "refcoco" / f"refs({split_by}).p", "test")
        assert all(sentence["raw"] for ref in refs for sentence in ref["sentences"])
    with pytest.raises(UserError, match="set images"):  # text only
        Refcoco(root=root)


def test_dam(samples: Path) -> None:
    root = samples / "fabricated" / "describe-anything-dataset"
    clips, stuff = dam.sav(root=root), dam.cocostuff(root=root)
    for index in range(len(clips)):
        assert clips[index].mask.sum() == 13_200
    reasons = []
    for index in range(len(stuff)):
        try:
            assert (stuff[index].caption or "").startswith("FABRICATED")
        except BadSample as fault:
            reasons.append(fault.reason)
    assert sorted(reasons) == ["blank caption", "missing member"]


def test_every_real_run_length_mask_decodes_as_by_pycocotools(samples: Path) -> None:
    masklet = read_json(samples / "sav" / "sav_000001_manual.json", "test")["masklet"]
    for rle in [rle for frame in masklet[::10] for rle in frame]:
        np.testing.assert_array_equal(_rle.decode(rle, "x"), coco.decode(rle).astype(bool))
    crowds = 0
    for name in ("train2017", "val2017"):
        content = read_json(samples / "coco2017_slice" / f"instances_{name}_slice.json", "test")
        sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        for annotation in content["annotations"]:
            height, width = sizes[annotation["image_id"]]
            mask = _rle.segmentation(annotation["segmentation"], height, width, "x")
            crowds += annotation["iscrowd"]
            # COCO's area is that of the polygon, not its pixels
            assert abs(mask.sum() - annotation["area"]) <= 0.1 * annotation["area"] + 60
    assert crowds
