"""The contract kit of teachers."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from core.contracts import ReportsStatistics, Teacher, UserError
from core.testing._offers import check_offers

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
    """Give ``make``."""

    def make(self) -> Teacher:
        raise NotImplementedError

    def started(self) -> tuple[Teacher, Groups]:
        teacher, groups = self.make(), student()
        assert isinstance(teacher, Teacher)
        teacher.start(groups)
        return teacher, groups

    def seen(self, teacher: Teacher, groups: Groups) -> list[torch.Tensor]:
        """The weights that the model computes with inside ``weights()``."""
        with teacher.weights():
            return values(groups)

    def test_offers_are_declared_whole(self) -> None:
        check_offers(self.make(), "teachers")

    def test_starts_as_the_student(self) -> None:
        teacher, groups = self.started()
        assert equal(self.seen(teacher, groups), values(groups))

    def test_labels_without_gradient_and_gives_the_student_back(self) -> None:
        teacher, groups = self.started()
        move(groups, 1.0)
        teacher.update()
        before, mode = values(groups), torch.is_grad_enabled()
        with teacher.weights():
            assert not torch.is_grad_enabled()
        assert torch.is_grad_enabled() == mode
        assert equal(values(groups), before)

    def test_gives_the_student_back_after_an_error(self) -> None:
        teacher, groups = self.started()
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
        teacher, groups = self.started()
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
