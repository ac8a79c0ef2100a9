"""``repeat``, ``concat``, ``filter`` and ``augment``."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.contracts import BadSample, Draws, GroupsByPicture, KnowsCocoPictures, Region, UserError
from core.testing.datasets import same_region
from plugins.datasets import _facts
from plugins.datasets.augment import Augment
from plugins.datasets.concat import Concat
from plugins.datasets.filter import Filter
from plugins.datasets.repeat import Repeat

CAPTIONS = ["a cup", "the red cup on the left", "杯子在左边", "a Righthand glove", "a copyright sign"]


@dataclass
class Plain:
    """Regions whose mask covers (index + 1) / 10 of a 20 x 10 picture; has no optional method."""

    captions: list[Any] = field(default_factory=lambda: list(CAPTIONS))
    bad: frozenset[int] = frozenset()
    reads: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> Region:
        self.reads.append(index)
        if index in self.bad:
            raise BadSample("unreadable", str(index))
        mask = np.zeros((10, 20), bool)
        mask[:, 3 : 5 + 2 * index] = True
        image = np.tile(np.arange(20, dtype=np.uint8)[None, :, None] * 12, (10, 1, 3))
        given = self.captions[index]
        texts: dict[str, Any] = {"captions": given} if isinstance(given, list) else {"caption": given}
        return Region(str(index), image, mask, category="cup" if index < 2 else None, **texts)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"reads": []}


class Grouped(Plain):
    def images(self) -> list[list[int]]:
        return [[0, 2], [1, 3, 4]]

    def coco_images(self) -> set[int]:
        return {7, 8}

    def draw(self, index: int, generator: np.random.Generator) -> Region:
        region = self[index]
        return replace(region, image=region.image + generator.integers(1, 200, dtype=np.uint8))


def ids(data: Any) -> list[str]:
    return [data[index].id for index in range(len(data))]


def every(inner: Any) -> list[Any]:
    return [
        Repeat(data=inner, times=2),
        Concat(data={"x": inner, "y": inner}),
        Filter(data=inner, max_share=0.4),
        Augment(data=inner, brightness=(0.9, 1.1)),
    ]


def test_ids_stay_unique() -> None:
    repeated = Repeat(data=Plain(["a", "b"]), times=3)
    assert ids(repeated) == ["0", "1", "0#2", "1#2", "0#3", "1#3"]
    joined = Concat(data={"one": Plain(["a"]), "two": repeated, "three": Plain(["a", "b"])})
    assert ids(joined) == ["one/0", "two/0", "two/1", "two/0#2", "two/1#2", "two/0#3", "two/1#3", "three/0", "three/1"]
    assert joined[-1].id == "three/1"
    with pytest.raises(IndexError):
        joined[9]
    with pytest.raises(IndexError):
        repeated[6]


def test_a_bad_sample_is_named_as_it_is_here() -> None:
    with pytest.raises(BadSample, match="two/1#2: unreadable"):
        Concat(data={"one": Plain(["a"]), "two": Repeat(data=Plain(["a", "b"], bad=frozenset({1})), times=2)})[4]


def test_pictures_and_draws_pass_through_and_are_sound_without_them() -> None:
    for inner in (Plain(), Grouped()):
        for data in every(inner):
            assert isinstance(data, GroupsByPicture)
            assert isinstance(data, KnowsCocoPictures)
            assert isinstance(data, Draws)
            assert sorted(index for group in data.images() for index in group) == list(range(len(data)))
            assert data.coco_images() == (inner.coco_images() if isinstance(inner, Grouped) else set())
    repeated, joined, kept, _ = every(Grouped())
    assert repeated.images() == [[0, 2], [1, 3, 4], [5, 7], [6, 8, 9]]
    assert joined.images() == repeated.images()
    assert kept.images() == [[0, 2], [1, 3]]  # index 4 is filtered out
    for data in (repeated, joined, kept):
        drawn, plain = data.draw(2, np.random.default_rng(0)), data[2]
        assert drawn.id == plain.id
        assert (drawn.image != plain.image).all()
    for data in every(Plain())[:3]:
        same_region(data.draw(1, np.random.default_rng(0)), data[1])


@pytest.mark.parametrize(
    ("conditions", "kept"),
    [
        ({"min_share": 0.2}, ["1", "2", "3", "4"]),
        ({"min_share": 0.15, "max_share": 0.35}, ["1", "2"]),
        ({"min_words": 3}, ["1", "3", "4"]),
        ({"max_words": 2}, ["0", "2"]),
        ({"include": "cup|杯"}, ["0", "1", "2"]),
        ({"exclude": r"(?i)\bright|left"}, ["0", "2", "4"]),
        ({"categories": ["cup", "plate"]}, ["0", "1"]),
        ({"categories": ["cup"], "min_words": 3, "max_share": 0.5}, ["1"]),
    ],
)
def test_filter(conditions: dict[str, Any], kept: list[str]) -> None:
    assert ids(Filter(data=Plain(), **conditions)) == kept


def test_filter_keeps_the_captions_that_fit() -> None:
    data = Filter(data=Plain([["a", "a long one"], ["b"], None]), min_words=2)
    assert [(data[i].id, list(data[i].captions), data[i].caption) for i in range(len(data))] == [("0", ["a long one"], None)]
    assert ids(Filter(data=Plain([["a"], None]), max_share=1.0)) == ["0", "1"]  # no condition on captions: none is needed


def test_filter_keeps_what_cannot_be_read_so_that_it_is_counted() -> None:
    data = Filter(data=Plain(bad=frozenset({3})), max_share=0.2)
    assert len(data) == 3
    with pytest.raises(BadSample):
        data[2]


def test_filter_reads_once_for_all_conditions_and_again_after_a_change() -> None:
    first = Plain(["only", "here"])
    Filter(data=first, min_share=0.1)
    assert sorted(first.reads) == [0, 1]
    again = Plain(["only", "here"])
    Filter(data=again, min_words=1)
    assert again.reads == []
    other = Plain(["only", "there"])
    Filter(data=other, min_words=1)
    assert sorted(other.reads) == [0, 1]


def test_facts_are_made_anew_when_a_named_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"

    @dataclass
    class _Unpicklable(Plain):
        pass

    file.write_text("one")
    assert Filter(data=Reading(file), min_words=1)[0].caption == "one"
    file.write_text("two words")
    os.utime(file, ns=(1, 1))
    assert Filter(data=Reading(file), min_words=2)[0].caption == "two words"
    with pytest.raises(UserError, match="cannot be pickled"):
        Filter(data=_Unpicklable(), min_words=1)


@dataclass
class Reading:
    file: Path

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Region:
        return replace(Plain()[0], caption=self.file.read_text())


_IDENTITY = """
import hashlib, sys
from plugins.datasets._facts import _Known
from plugins.datasets.concat import Concat
from plugins.datasets.folder_regions import FolderRegions
from plugins.datasets.openimages import OpenImages
from plugins.datasets.sav_pairs import SavPairs
from plugins.datasets.refcoco import Refcoco
root = sys.argv[1]
parts = {"sav": SavPairs(root=root + "/sav"), "refs": Refcoco(root=root + "/ref_seg", max_samples=9),
         "open": OpenImages(root=root + "/openimages", caption="class_name")}
known = _Known()
known.dump(Concat(data=parts))
print(hashlib.sha256(known.file.getvalue()).hexdigest(), len(known.stamps))
"""


def test_another_process_finds_the_same_facts(world: Path) -> None:
    """Text hashes differ between processes: whatever order they give must not make a data set unknown."""

    def run(seed: str) -> list[str]:
        command, env = [sys.executable, "-c", _IDENTITY, str(world)], os.environ | {"PYTHONHASHSEED": seed}
        return subprocess.run(command, env=env, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True).stdout.split()

    assert run("1") == run("2")
    assert int(run("1")[1]) > 3
    assert _facts.facts(Plain()).bad == 0


def test_filter_says_what_is_wrong() -> None:
    for wrong, words in (
        ({}, "give at least one of min_share"),
        ({"min_share": 0.5, "max_share": 0.1}, "the smaller one first, not 0.5 and 0.1"),
        ({"min_words": 3, "max_words": 2}, r"max_words \(2\) must be at least min_words \(3\)"),
        ({"include": "("}, "include is no regular expression"),
    ):
        with pytest.raises(ValueError, match=words):
            Filter(data=Plain(), **wrong)
    with pytest.raises(UserError, match=r"none of 5 regions fits the conditions \(0 cannot be read\)"):
        Filter(data=Plain(), min_share=0.9)


def test_augment_gives_the_plain_sample_by_index_and_others_when_drawn() -> None:
    data = Augment(data=Plain(), brightness=(0.5, 0.6), crop=(0.5, 0.9))
    same_region(data[1], Plain()[1])
    region = data.draw(1, np.random.default_rng(3))
    assert region.image.mean() < 0.7 * data[1].image.mean()
    assert np.array_equal(region.mask, data[1].mask)


@pytest.mark.parametrize("index", range(5))
def test_a_crop_keeps_the_object_whole_and_moves(index: int) -> None:
    data, plain = Augment(data=Plain(), crop=(0.3, 0.9)), Plain()[index]
    sizes, corners = set(), set()
    for seed in range(40):
        region = data.draw(index, np.random.default_rng(seed))
        assert region.image2 is not None
        assert region.mask2 is not None
        assert region.mask2.sum(1).max() == plain.mask.sum(1).max()  # no column of the object is cut away
        first = int(region.image2[0, 0, 0]) // 12  # the picture's columns have their own grey
        height, width = region.mask2.shape
        assert np.array_equal(region.mask2[0], plain.mask[0, first : first + width])
        assert np.array_equal(region.image2[0], plain.image[0, first : first + width])
        sizes.add((height, width))
        corners.add(first)
        same_region(replace(region, image2=None, mask2=None), plain)  # the first view stays
    assert len(sizes) > 3
    assert len(corners) > 1


def test_only_captions_without_sides_are_mirrored() -> None:
    data = Augment(data=Plain(), flip=1.0)
    mirrored = [bool((data.draw(i, np.random.default_rng(0)).image == data[i].image[:, ::-1]).all()) for i in range(5)]
    assert mirrored == [True, False, False, False, True]  # "copyright" names no side
    several = Augment(data=Plain([["a cup", "the left one"], None]), flip=1.0)
    assert np.array_equal(several.draw(0, np.random.default_rng(0)).mask, several[0].mask)
    flipped = several.draw(1, np.random.default_rng(0))
    assert np.array_equal(flipped.mask, several[1].mask[:, ::-1])


def test_both_views_are_mirrored_together() -> None:
    data = Augment(data=Plain(), flip=0.5, crop=(1.0, 1.0))
    for seed in range(20):
        region = data.draw(0, np.random.default_rng(seed))
        assert region.mask2 is not None
        assert np.array_equal(region.mask, region.mask2)


def test_colours_of_the_second_view_alone() -> None:
    region = Augment(data=Plain(), contrast=(0.2, 0.3), colours="second").draw(0, np.random.default_rng(0))
    assert np.array_equal(region.image, Plain()[0].image)
    assert region.image2 is not None
    assert region.image2.std() < 0.5 * region.image.std()
    assert np.array_equal(region.mask, np.asarray(region.mask2))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"brightness": (1.2, 0.8)}, "brightness must be two numbers from 0 on, the smaller one first"),
        ({"crop": (0.0, 1.0)}, "crop must lie in 0..1, above 0"),
        ({"crop": (0.5, 1.5)}, "crop must lie in 0..1, above 0"),
        ({"blur": (0.0, float("nan"))}, "blur must be two numbers"),
        ({"flip": 2.0}, "flip must lie in 0..1"),
    ],
)
def test_augment_says_what_is_wrong(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Augment(data=Plain(), **wrong)


def test_repeat_and_concat_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="times must be at least 1"):
        Repeat(data=Plain(), times=0)
    with pytest.raises(ValueError, match="at least one data set"):
        Concat(data={})
