"""The contract kit of teachers."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from core.contracts import PreparesItsOwn, Region, RegionBatch, ReportsStatistics, Teacher, Tokens, UserError, WritesCaptions
from core.testing._offers import check_offers
from core.testing.tiny_model import TinyModel, TinyPreparation, regions

Groups = dict[str, list[tuple[str, nn.Parameter]]]


def student(seed: int = 0) -> Groups:
    """Two groups of small float32 parameters."""
    draw = torch.Generator().manual_seed(seed)
    weight, bias, a = (nn.Parameter(torch.randn(*size, generator=draw)) for size in ((3, 2), (3,), (2, 4)))
    return {"projector": [("weight", weight), ("bias", bias)], "lora": [("a", a)]}


def values(groups: Groups) -> list[torch.Tensor]:
    """Copies of all parameters."""
    return [parameter.detach().clone() for named in groups.values() for _, parameter in named]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@torch.no_grad()
def move(groups: Groups, by: float) -> None:
    """One optimizer step's worth of change."""
    for named in groups.values():
        for _, parameter in named:
            parameter.add_(by)


class TeacherKit:
    """Give ``make``. A teacher that writes captions writes them for ``regions``, whose ids are ``region-0``, ``region-1``, ..."""

    def make(self) -> Teacher:
        raise NotImplementedError

    def regions(self) -> list[Region]:
        """What a teacher that writes captions describes."""
        return regions()

    def started(self) -> tuple[Teacher, Groups]:
        teacher, groups = self.make(), student()
        assert isinstance(teacher, Teacher)
        teacher.start(groups)
        return teacher, groups

    def lends(self) -> tuple[Teacher, Groups]:
        """A started teacher with weights for the student; skips where it only writes captions, and ``weights()`` says so."""
        teacher, groups = self.started()
        if isinstance(teacher, WritesCaptions):
            try:
                with teacher.weights():
                    pass
            except UserError:
                pytest.skip("this teacher writes captions and lends no weights")
        return teacher, groups

    def seen(self, teacher: Teacher, groups: Groups) -> list[torch.Tensor]:
        """The weights that the model computes with inside ``weights()``."""
        with teacher.weights():
            return values(groups)

    def test_offers_are_declared_whole(self) -> None:
        check_offers(self.make(), "teachers")

    def test_starts_as_the_student(self) -> None:
        teacher, groups = self.lends()
        assert equal(self.seen(teacher, groups), values(groups))

    def test_labels_without_gradient_and_gives_the_student_back(self) -> None:
        teacher, groups = self.lends()
        move(groups, 1.0)
        teacher.update()
        before, mode = values(groups), torch.is_grad_enabled()
        with teacher.weights():
            assert not torch.is_grad_enabled()
        assert torch.is_grad_enabled() == mode
        assert equal(values(groups), before)

    def test_gives_the_student_back_after_an_error(self) -> None:
        teacher, groups = self.lends()
        move(groups, 1.0)
        before = values(groups)
        with pytest.raises(ZeroDivisionError), teacher.weights():
            _ = 1 / 0
        assert equal(values(groups), before)
        assert torch.is_grad_enabled()

    def test_an_update_leaves_the_student_alone(self) -> None:
        teacher, groups = self.started()
        move(groups, 1.0)
        before = values(groups)
        teacher.update()
        assert equal(values(groups), before)

    def test_statistics_are_finite_numbers(self) -> None:
        """``ReportsStatistics``; they are logged as ``teacher/NAME``."""
        teacher, groups = self.started()
        if not isinstance(teacher, ReportsStatistics):
            pytest.skip("this teacher has no statistics")
        move(groups, 1.0)
        teacher.update()
        assert all(isinstance(value, float) and math.isfinite(value) for value in teacher.statistics().values())

    def test_a_resumed_teacher_equals_the_uninterrupted_one_bit_for_bit(self) -> None:
        teacher, groups = self.lends()
        for step in range(3):
            move(groups, 0.3 * step)
            teacher.update()
        state = copy.deepcopy(dict(teacher.state_dict()))
        assert all(isinstance(tensor, torch.Tensor) for tensor in state.values()), "state is saved as safetensors: tensors only"
        resumed = self.make()
        resumed.start(groups)
        resumed.load_state_dict(state)
        for _ in range(2):
            assert equal(self.seen(teacher, groups), self.seen(resumed, groups))
            move(groups, 0.7)
            teacher.update()
            resumed.update()

    def test_refuses_the_state_of_another_model(self) -> None:
        teacher, _ = self.started()
        state = dict(teacher.state_dict())
        if not state:
            pytest.skip("this teacher keeps no state")
        state.pop(next(iter(state)))
        with pytest.raises(UserError):
            teacher.load_state_dict(state)

    # -------------------------------------------------------------------------------------- captions of its own (``WritesCaptions``)

    def captioned(self, chosen: list[Region] | None = None, length: int = 6) -> tuple[TinyModel, Tokens]:
        """A student, and what a new teacher writes for it inside a training step."""
        teacher, model = self.make(), TinyModel()
        if not isinstance(teacher, WritesCaptions):
            pytest.skip("this teacher is the student with other weights")
        teacher.start(model.trainable())
        batch = self.batch(teacher, self.regions() if chosen is None else chosen)
        with model.computing(training=True):
            return model, teacher.captions(model, model.encode(batch), batch, length)

    def batch(self, teacher: Teacher, chosen: list[Region]) -> RegionBatch:
        """As the engine brings it: with what a teacher sees that prepares its own."""
        batch = TinyPreparation().collate(chosen)
        if not isinstance(teacher, PreparesItsOwn) or teacher.preparation == TinyPreparation():
            return batch
        own = pickle.loads(pickle.dumps(teacher.preparation))  # it travels to the loader's workers
        return replace(batch, for_teacher=own.collate([own(region) for region in chosen]))

    def test_captions_are_the_students_tokens(self) -> None:
        """Right-padded, not longer than asked for, and without special tokens, such as the turn's end."""
        for length in (1, 6):
            model, tokens = self.captioned(length=length)
            assert tokens.ids.dtype == torch.int64
            assert tokens.mask.dtype == torch.bool
            assert tokens.ids.shape == tokens.mask.shape
            assert len(tokens.ids) == len(self.regions())
            assert 1 <= tokens.ids.shape[1] <= length
            assert not (tokens.mask[:, 1:] & ~tokens.mask[:, :-1]).any(), "real tokens come before padding"
            assert bool(torch.isin(tokens.ids[tokens.mask], model.ordinary_tokens).all())
            assert bool((tokens.ids[~tokens.mask] == model.pad_token).all())

    def test_captions_leave_the_student_as_it_was(self) -> None:
        teacher, model = self.make(), TinyModel()
        if not isinstance(teacher, WritesCaptions):
            pytest.skip("this teacher is the student with other weights")
        teacher.start(model.trainable())
        before = [parameter.detach().clone() for parameter in model.parameters()]
        batch = self.batch(teacher, self.regions())
        with model.computing(training=True):
            tokens = teacher.captions(model, model.encode(batch), batch, 6)
            assert torch.is_grad_enabled()
            assert all(module.training for module in model.modules())
        assert not tokens.ids.requires_grad
        assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
        assert all(torch.equal(parameter, was) for parameter, was in zip(model.parameters(), before, strict=True))

    def test_a_caption_is_its_regions_alone(self) -> None:
        """The same whatever the random state and the neighbours."""
        torch.manual_seed(1)
        _, together = self.captioned()
        torch.manual_seed(2)
        for row, region in enumerate(self.regions()):
            _, alone = self.captioned([region])
            assert alone.ids[0][alone.mask[0]].tolist() == together.ids[row][together.mask[row]].tolist()
