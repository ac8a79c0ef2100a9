"""What a visit to a sample draws: augmentations, one of several captions; what travels beside it; the teacher's own batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from core.contracts import BadSample, Region, RegionBatch, UserError
from core.engine.feed import Ahead, Feed, Supply
from core.engine.plan import Plan, Source, needs_of
from core.testing.tiny_model import TinyPreparation


@dataclass
class Drawing:
    """Each sample has three captions, a category, further fields, and a pixel that ``draw`` chooses."""

    length: int = 11
    bad: frozenset[int] = frozenset()
    empty: frozenset[int] = frozenset()
    extra: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Region:
        if index in self.bad:
            raise BadSample("unreadable", str(index))
        mask = np.full((32, 32), index not in self.empty)
        texts = [f"{index} {word}" for word in ("one", "two", "three")]
        more = {"number": index, "box": torch.tensor([index, 2])} | self.extra
        return Region(str(index), np.zeros((32, 32, 3), np.uint8), mask, captions=texts, category=f"c{index % 2}", extra=more)

    def draw(self, index: int, generator: np.random.Generator) -> Region:
        region = self[index]
        return replace(region, image=region.image + generator.integers(1, 256, dtype=np.uint8))


def plan(dataset: Any = None, batch: int = 6, weight: float | None = None, needs: frozenset[str] = frozenset({"caption"})) -> Plan:
    return Plan([Source("l", "t", "s", dataset or Drawing(), needs, weight)], 3, batch)


def visits(p: Plan, updates: Sequence[int], rank: int = 0, world: int = 1, workers: int = 0) -> list[dict[str, tuple[str | None, int]]]:
    """For each update: sample id -> (caption, drawn pixel)."""
    order = [(update, "l") for update in updates]
    feed = Feed("l", Supply({"l": p}, TinyPreparation(), order, p.batch // world, rank, world, Ahead(workers, 2**20)), 1.0)
    found = []
    for _ in updates:
        parts = [batch for micro in feed.update() for _, batch in micro.parts]
        pixels = [int(batch.sam_pictures[row, 0, 0, 0]) for batch in parts for row in batch.view1]
        ids, captions = ([one for batch in parts for one in getattr(batch, name)] for name in ("ids", "captions"))
        found.append({id_: (caption, pixel) for id_, caption, pixel in zip(ids, captions, pixels, strict=True)})
    feed.close()
    return found


@pytest.mark.parametrize("weight", [None, 2.0])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_any_number_of_ranks_sees_the_same_draws_from_any_update_on(world: int, weight: float | None) -> None:
    whole = visits(plan(weight=weight), range(6))
    for start in (0, 3):  # 6 of 11 samples an update: every start but the first lies within an epoch
        ranks = [visits(plan(weight=weight), range(start, 6), rank, world) for rank in range(world)]
        for update, seen in enumerate(whole[start:]):
            assert {sample: drawn for rank in ranks for sample, drawn in rank[update].items()} == seen


def test_workers_see_the_same_draws() -> None:
    assert visits(plan(Drawing(bad=frozenset({1, 2}))), range(4), workers=2) == visits(plan(Drawing(bad=frozenset({1, 2}))), range(4))


def test_every_epoch_draws_anew_and_every_caption_comes_up() -> None:
    epochs = visits(plan(batch=11), range(12))
    for sample in epochs[0]:
        drawn = [epoch[sample] for epoch in epochs]
        assert len({pixel for _, pixel in drawn}) > 6
        assert len({caption for caption, _ in drawn}) >= 2
    assert {str(caption).split()[1] for epoch in epochs for caption, _ in epoch.values()} == {"one", "two", "three"}


def test_draws_are_those_of_the_epoch_not_of_the_update() -> None:
    one_by_one = visits(plan(batch=1), range(22))
    assert [{k: v for update in one_by_one[start : start + 11] for k, v in update.items()} for start in (0, 11)] == visits(
        plan(batch=11), range(2)
    )


def test_samples_are_drawn_independently_of_each_other() -> None:
    (epoch,) = visits(plan(batch=11), [0])
    assert len({pixel for _, pixel in epoch.values()}) > 8
    assert len({str(caption).split()[1] for caption, _ in epoch.values()}) == 3


def test_a_replacement_draws_too_and_keeps_its_own_generator() -> None:
    healthy, broken = visits(plan(batch=11), [0])[0], visits(plan(Drawing(bad=frozenset({0, 5})), batch=11), [0])[0]
    assert all(healthy[sample] == drawn for sample, drawn in broken.items())
    assert all(pixel for _, pixel in broken.values())


def batch_of(p: Plan, teacher: Any = None, workers: int = 0) -> RegionBatch:
    room = Ahead(workers, 2**20)
    feed = Feed("l", Supply({"l": p}, TinyPreparation(), [(0, "l")], p.batch, room=room, teacher_preparation=teacher), 1.0)
    (micro,) = feed.update()
    feed.close()
    return micro.parts[0][1]


@pytest.mark.parametrize("workers", [0, 1])
def test_categories_and_further_fields_travel_in_the_batchs_order(workers: int) -> None:
    batch = batch_of(plan(), workers=workers)
    numbers = [int(sample.split("/")[1]) for sample in batch.ids]
    assert [one["number"] for one in batch.extra] == numbers
    assert [one["box"].tolist() for one in batch.extra] == [[number, 2] for number in numbers]
    assert batch.categories == [f"c{number % 2}" for number in numbers]
    moved = batch.to("meta")
    assert all(one["box"].device.type == "meta" for one in moved.extra)
    assert [one["number"] for one in moved.extra] == numbers
    assert moved.tiles.device.type == "meta"


class Squares(TinyPreparation):
    """A teacher's preparation that knows another set of regions as bad."""

    def __call__(self, region: Region, needs: frozenset[str] = frozenset()) -> Region:
        if region.id == "s/4":
            raise BadSample("too plain", region.id)
        return super().__call__(replace(region, image=255 - region.image), needs)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_teachers_own_preparation_sees_the_same_regions(workers: int) -> None:
    batch = batch_of(plan(batch=11), Squares(), workers)
    assert batch.for_teacher is not None
    assert batch.for_teacher.ids == batch.ids
    assert torch.equal(batch.for_teacher.sam_pictures, 255 - batch.sam_pictures)
    assert "s/4" not in batch.ids  # bad for one is bad for both
    moved = batch.to("meta").for_teacher
    assert moved is not None
    assert moved.sam_pictures.device.type == "meta"
    assert batch_of(plan()).for_teacher is None


class Taking:
    """A loop's declarations."""

    needs = frozenset({"caption"})
    empty_masks = True


def test_an_empty_mask_is_a_sample_where_the_loop_says_so() -> None:
    dataset = Drawing(empty=frozenset(range(0, 11, 2)))
    assert needs_of(Taking()) == {"caption", "empty_mask"}  # type: ignore[arg-type]
    batch = batch_of(plan(dataset, 11, needs=needs_of(Taking())))  # type: ignore[arg-type]
    assert {sample for sample, mask in zip(batch.ids, batch.mask1, strict=True) if not mask.any()} == {f"s/{i}" for i in range(0, 11, 2)}
    strict = batch_of(plan(dataset, 11))
    assert strict.mask1.flatten(1).any(1).all()
    with pytest.raises(UserError, match=r"20 draws in a row were bad, the last one .* empty mask"):
        batch_of(plan(Drawing(empty=frozenset(range(11)))))


def test_one_caption_is_left_as_it_is() -> None:
    class One(Drawing):
        def __getitem__(self, index: int) -> Region:
            return replace(super().__getitem__(index), caption="the only one", captions=())

    assert set(batch_of(plan(One())).captions) == {"the only one"}
