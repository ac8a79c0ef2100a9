"""The micro-batches of an update are described together, and each gets what it would get alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from core.contracts import RegionBatch, Tokens, WritesCaptions, teacher_captions
from core.engine import teaching
from core.engine.teaching import Together, first_views, joined
from core.testing import TinyModel
from core.testing.tiny_model import TinyPreparation, regions
from plugins.teachers.ema import Ema
from plugins.teachers.frozen import Frozen

LENGTH = 8


class Counting(Ema):
    """Counts how often its weights are used."""

    def __init__(self) -> None:
        super().__init__(decay=0.5)
        self.uses = 0

    @contextmanager
    def weights(self) -> Iterator[None]:
        self.uses += 1
        with super().weights():
            yield


@pytest.fixture
def model() -> TinyModel:
    return TinyModel()


@pytest.fixture
def teacher(model: TinyModel) -> Counting:
    """Not the student's weights."""
    made = Counting()
    made.start(model.trainable())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1)
    return made


def batches(*sizes: int) -> list[RegionBatch]:
    made, start, every = [], 0, regions(sum(sizes))
    for size in sizes:
        made.append(TinyPreparation().collate(every[start : start + size]))
        start += size
    return made


def equal(one: Tokens, other: Tokens) -> bool:
    return torch.equal(one.ids, other.ids) and torch.equal(one.mask, other.mask)


def alone(teacher: Any, model: TinyModel, given: RegionBatch, length: int = LENGTH) -> Tokens:
    return teacher_captions(teacher, model, model.encode(given), given, length)


@pytest.mark.parametrize("limit", [3, 4, 5, 32])
def test_each_micro_batch_gets_what_it_gets_alone(limit: int, teacher: Counting, model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teaching, "ROWS", limit)
    parts = batches(3, 1, 2)
    wanted = [alone(teacher, model, part) for part in parts]
    assert len({tuple(row.tolist()) for one in wanted for row in one.ids}) > 1
    teacher.uses = 0
    together = Together(teacher, model, parts, "cpu")
    found = [alone(together.of(number, part), model, part) for number, part in enumerate(parts)]
    assert all(equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert teacher.uses == {3: 2, 4: 2, 5: 2, 32: 1}[limit]
    assert not together.written


def test_one_micro_batch_is_left_to_the_teacher(teacher: Counting, model: TinyModel) -> None:
    [part] = batches(2)
    assert Together(teacher, model, [part], "cpu").of(0, part) is teacher


def test_other_questions_reach_the_teacher_itself(teacher: Counting, model: TinyModel) -> None:
    """A batch that the loop made, another length, the weights, what else the teacher has."""
    parts = batches(2, 2)
    seen = Together(teacher, model, parts, "cpu").of(0, parts[0])
    made = TinyPreparation().collate(regions(3))
    assert equal(alone(seen, model, made), alone(teacher, model, made))
    assert equal(alone(seen, model, parts[0], 3), alone(teacher, model, parts[0], 3))
    assert equal(alone(seen, model, parts[0]), alone(teacher, model, parts[0]))
    assert isinstance(seen, WritesCaptions)
    assert getattr(seen, "decay") == 0.5  # noqa: B009
    before = next(iter(model.parameters())).data_ptr()
    with seen.weights():
        assert next(iter(model.parameters())).data_ptr() != before


def test_a_teacher_that_writes_is_asked_once(model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = Frozen(model=TinyModel(seed=3))
    parts = batches(2, 3)
    wanted = [alone(frozen, model, part) for part in parts]
    asked: list[int] = []
    write = Frozen.captions

    def watched(self: Frozen, student: Any, vision: Any, batch: RegionBatch, length: int) -> Tokens:
        asked.append(len(batch))
        return write(self, student, vision, batch, length)

    monkeypatch.setattr(Frozen, "captions", watched)
    together = Together(frozen, model, parts, "cpu")
    assert all(equal(alone(together.of(i, part), model, part), wanted[i]) for i, part in enumerate(parts))
    assert asked == [5]


def test_joined_batches_show_each_region_its_own_picture() -> None:
    parts = batches(3, 2)
    whole = joined([first_views(part) for part in parts])
    assert whole.ids == [one for part in parts for one in part.ids]
    assert len(whole.grids) == 5  # the second views' pictures are not looked at
    for number, part, row in ((0, parts[0], 0), (2, parts[0], 2), (3, parts[1], 0), (4, parts[1], 1)):
        mine = whole.tiles.split(whole.tile_counts)[int(whole.view1[number])]
        assert torch.equal(mine, part.tiles.split(part.tile_counts)[int(part.view1[row])])
