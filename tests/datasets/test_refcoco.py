from __future__ import annotations

import json
import os
import pickle
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.contracts import BadSample, UserError
from plugins.datasets._refs import load_refs
from plugins.datasets.refcoco import Refcoco
from plugins.datasets.shapes.described import python2_pickle


@pytest.fixture
def root(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world / "ref_seg", tmp_path / "ref_seg"))


def refs_of(root: Path) -> list[dict[str, Any]]:
    return load_refs(root / "refcoco" / "refs(unc).p", "test")


def write_refs(root: Path, refs: object) -> None:
    (root / "refcoco" / "refs(unc).p").write_bytes(python2_pickle(refs))


def edit_instances(root: Path, change: Any) -> None:
    path = root / "refcoco" / "instances.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_every_sentence_is_an_item_and_raw_is_lower_cased(root: Path) -> None:
    refs = [ref for ref in refs_of(root) if ref["split"] == "val"]
    refs[0]["sentences"][0] |= {"raw": "2nd GREY One", "sent": "second gray one"}
    write_refs(root, refs)
    raw, sent = Refcoco(root=root, split="val", text="raw"), Refcoco(root=root, split="val")
    assert len(raw) == sum(len(ref["sentences"]) for ref in refs)
    assert (raw[0].caption, sent[0].caption) == ("2nd grey one", "second gray one")
    assert raw[0].id == f"refcoco/unc/{refs[0]['ref_id']}/{refs[0]['sentences'][0]['sent_id']}"


def test_refs_without_the_field_name_the_other_one(root: Path) -> None:
    refs = [ref for ref in refs_of(root) if ref["split"] == "val"]
    for sentence in refs[0]["sentences"]:
        del sentence["sent"]
    write_refs(root, refs)
    with pytest.raises(UserError, match="lacks 'sent'; text: raw takes that field"):
        Refcoco(root=root, split="val")
    assert len(Refcoco(root=root, split="val", text="raw"))


def test_several_polygons_and_a_crowd(root: Path) -> None:
    refs = [ref for ref in refs_of(root) if ref["split"] == "val"][:2]
    write_refs(root, refs)
    side = 96

    def change(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            if annotation["id"] == refs[0]["ann_id"]:
                annotation["segmentation"] = [[0, 0, 50, 0, 50, 50, 0, 50], [40, 40, 90, 40, 90, 90, 40, 90]]
            if annotation["id"] == refs[1]["ann_id"]:
                runs = {"size": [side, side], "counts": [side, 2 * side, side * (side - 3)]}
                annotation |= {"iscrowd": 1, "segmentation": runs, "area": area}

    area = 2 * side
    edit_instances(root, change)
    dataset = Refcoco(root=root, split="val")
    assert dataset[0].mask.sum() == 50 * 50 * 2 - 10 * 10
    crowd = dataset[len(dataset) - 1].mask
    assert crowd[:, 1:3].all()
    assert crowd.sum() == 2 * side
    area = 9 * side
    edit_instances(root, change)
    with pytest.raises(BadSample, match=r"192 pixels in .* area 864"):
        Refcoco(root=root, split="val")[len(dataset) - 1]


def test_the_split_is_compared_whole(root: Path) -> None:
    with pytest.raises(UserError, match="it has testA, train, val"):
        Refcoco(root=root, split="test")
    with pytest.raises(UserError, match="testB"):
        Refcoco(root=root, split="testB")


def test_blank_phrases_and_dangling_ids_are_bad_samples(root: Path) -> None:
    refs = [ref for ref in refs_of(root) if ref["split"] == "val"][:3]
    refs = [{**ref, "sentences": ref["sentences"][:1]} for ref in refs]
    refs[0]["sentences"][0]["sent"] = "  "
    refs[1]["ann_id"] = 99_999
    refs[2]["image_id"] = 99_999
    write_refs(root, refs)
    dataset = Refcoco(root=root, split="val")
    for index, reason in enumerate(("blank phrase", "not in instances.json", "not in instances.json")):
        with pytest.raises(BadSample) as fault:
            dataset[index]
        assert fault.value.reason == reason


def test_pictures_elsewhere_missing_or_damaged(root: Path) -> None:
    usual = root / "refcoco" / "coco2014" / "train2014"
    usual.rename(root / "elsewhere")
    with pytest.raises(UserError, match="set images"):
        Refcoco(root=root)
    dataset = Refcoco(root=root, images=root / "elsewhere", split="val")
    picture = root / "elsewhere" / dataset._index.text("file", int(dataset._index["picture"][0]))
    assert dataset[0].image.shape == (96, 96, 3)
    picture.write_bytes(picture.read_bytes()[:700])
    with pytest.raises(BadSample, match="damaged picture"):
        dataset[0]
    picture.unlink()
    with pytest.raises(BadSample, match="missing picture"):
        dataset[0]


def test_files_missing_or_damaged(root: Path) -> None:
    folder = root / "refcoco"
    with pytest.raises(UserError, match=r"refs\(google\)\.p is missing, but there is refs\(unc\)\.p; set split_by"):
        Refcoco(root=root, split_by="google")
    with pytest.raises(UserError, match=r"refcoco\+"):
        Refcoco(root=root, dataset="refcoco+")
    instances = (folder / "instances.json").read_text()
    for content in (instances[:1000], "[]", '{"images": []}'):
        (folder / "instances.json").write_text(content)
        with pytest.raises(UserError, match=r"instances\.json"):
            Refcoco(root=root)
    (folder / "instances.json").unlink()
    with pytest.raises(UserError, match=r"instances\.json"):
        Refcoco(root=root)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_every_protocol_reads_alike(tmp_path: Path, protocol: int) -> None:
    value = [{"split": "val", "ref_id": 3, "area": 1.5, "sentences": [{"raw": "grün", "sent_id": 2**40}], "none": None, "ok": True}] * 2
    (tmp_path / "r.p").write_bytes(pickle.dumps(value, protocol=protocol))
    assert load_refs(tmp_path / "r.p", "test") == value


def test_python_2_byte_strings(tmp_path: Path) -> None:
    (tmp_path / "r.p").write_bytes(b"(lp0\n(dp1\nS'raw'\np2\nS'caf\\xc3\\xa9'\np3\nsa.")
    assert load_refs(tmp_path / "r.p", "test") == [{"raw": "café"}]
    (tmp_path / "r.p").write_bytes(b"(lp0\n(dp1\nS'raw'\np2\nS'caf\\xe9'\np3\nsa.")
    assert load_refs(tmp_path / "r.p", "test") == [{"raw": "café"}]


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("attacked",)


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps([Attack()], protocol=0),
        pickle.dumps([Attack()], protocol=4),
        pickle.dumps([np.int64(3)]),
        pickle.dumps([{1, 2}]),
        b"cos\nsystem\n(S'true'\ntR.",
        b"(l",
        b"",
        b"I5\n.",
        b"(lI5\na.",
        b"0.",
        b"\x80\x05\x96" + (2**62).to_bytes(8, "little") + b".",
        b"(i" + b"os\nsystem\n.",
        b"(lp0\n(dp1\nS'\\xff\\xfe",
    ],
)
def test_a_pickle_that_is_more_than_plain_data_is_refused(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.p").write_bytes(data)
    with pytest.raises(UserError, match=r"r\.p"):
        load_refs(tmp_path / "r.p", "test")
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("data", [b"(lp4000000000\n.", b"]r\xff\xff\xff\xf0."])
def test_an_absurd_memo_index_allocates_nothing(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "r.p").write_bytes(data)
    tracemalloc.start()
    assert load_refs(tmp_path / "r.p", "test") == []
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_refs_without_what_is_needed(root: Path) -> None:
    write_refs(root, [{"split": "val"}])
    with pytest.raises(UserError, match="lacks 'sentences'"):
        Refcoco(root=root, split="val")


def grefs(root: Path) -> tuple[Path, list[dict[str, Any]]]:
    """gRefCOCO of the small world's pictures: one target, two, none."""
    refs = [ref for ref in refs_of(root) if ref["split"] == "val"]
    first = refs[0]
    other = json.loads((root / "refcoco" / "instances.json").read_text())["annotations"]
    other = next(one["id"] for one in other if one["image_id"] == first["image_id"] and one["id"] != first["ann_id"])
    targets = ([first["ann_id"]], [first["ann_id"], other], [-1])
    made = [
        {"ref_id": number, "image_id": first["image_id"], "ann_id": ids, "split": "val", "no_target": ids == [-1]}
        | {"sentences": [{"sent_id": 10 + number, "raw": "x", "sent": f"phrase {number} é"}]}
        for number, ids in enumerate(targets)
    ]
    (root / "grefcoco").mkdir()
    shutil.copy(root / "refcoco" / "instances.json", root / "grefcoco")
    return root / "grefcoco", made


@pytest.mark.parametrize("suffix", ["json", "p"])
def test_several_targets_are_joined_and_none_is_an_empty_mask(root: Path, suffix: str) -> None:
    folder, made = grefs(root)
    (folder / f"grefs(unc).{suffix}").write_bytes(pickle.dumps(made, 2) if suffix == "p" else json.dumps(made).encode())
    options: dict[str, Any] = {"root": root, "dataset": "grefcoco", "split": "val"}
    data = Refcoco(**options)
    assert [region.id for region in (data[0], data[1])] == ["grefcoco/unc/0/10", "grefcoco/unc/1/11"]
    assert str(data.usage()[0]) == "2 of 3 expressions of val used; left out: 1 x no target (empty_masks: true takes them)"
    assert data[0].mask.any()
    assert (data[1].mask & data[0].mask == data[0].mask).all()
    assert data[1].mask.sum() > data[0].mask.sum()
    every = Refcoco(**options, empty_masks=True)
    assert (len(every), every[2].caption, int(every[2].mask.sum())) == (3, "phrase 2 é", 0)
    assert every[2].mask.shape == every[2].image.shape[:2]
    made[1]["ann_id"][1] = 99_999
    (folder / "grefs(unc).p").write_bytes(pickle.dumps(made, 2))
    with pytest.raises(BadSample, match="not in instances"):
        Refcoco(**options)[1]
    for ref in made:
        ref["ann_id"], ref["no_target"] = [-1], True
    (folder / "grefs(unc).p").write_bytes(pickle.dumps(made, 2))
    with pytest.raises(UserError, match="nothing to use in the split val"):
        Refcoco(**options)


def test_refclef_has_ids_that_are_texts_and_lists_of_run_lengths(root: Path) -> None:
    folder, pictures = root / "refclef", root / "images" / "saiapr_tc-12"
    folder.mkdir()
    pictures.mkdir(parents=True)
    source = next((root / "refcoco" / "coco2014" / "train2014").iterdir())
    shutil.copy(source, pictures / "25.jpg")
    runs = {"size": [96, 96], "counts": [96, 96, 96 * 94]}
    images = [{"id": 25, "file_name": "25.jpg", "width": 96, "height": 96}]
    annotations = [{"id": "25_1", "image_id": 25, "segmentation": [runs], "area": 96}, {"id": "25_2", "image_id": 25, "segmentation": []}]
    (folder / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    sentences = [{"sent_id": 4, "raw": "Sky", "sent": "sky"}]
    refs = [{"ref_id": 3, "image_id": 25, "ann_id": "25_1", "split": "testC", "sentences": sentences}]
    (folder / "refs(berkeley).p").write_bytes(python2_pickle([]))
    (folder / "refs(unc).p").write_bytes(python2_pickle(refs))
    data = Refcoco(root=root, dataset="refclef", split="testC")
    region = data[0]
    assert (region.id, region.caption, int(region.mask.sum()), region.mask[:, 1].all()) == ("refclef/unc/3/4", "sky", 96, True)
    assert data.coco_images() == set()


def test_an_annotation_id_twice_is_refused_with_both_places(root: Path) -> None:
    wanted = next(ref for ref in refs_of(root) if ref["split"] == "val")["ann_id"]

    def change(content: dict[str, Any]) -> None:
        content["annotations"] += [one for one in content["annotations"] if one["id"] == wanted]

    edit_instances(root, change)
    with pytest.raises(UserError, match=rf"the id {wanted} stands twice in annotations, at byte \d+ and at byte \d+"):
        Refcoco(root=root, split="val")
