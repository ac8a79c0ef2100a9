"""The contract kit of optimizers."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch

from core.contracts import OptimizerFactory
from core.testing.teachers import Groups, equal, student, values


class OptimizerKit:
    """Give ``make``. Its rate must be large enough that ten steps move float32 weights of size 1."""

    def make(self) -> OptimizerFactory:
        raise NotImplementedError

    def built(self, updates: int = 10) -> tuple[Groups, Any, Any]:
        groups = student()
        optimizer, rate = self.make().build(groups, updates)
        return groups, optimizer, rate

    def run(self, groups: Groups, optimizer: Any, rate: Any, steps: int) -> None:
        """Steps on the sum of squares; the gradient is the weight itself."""
        for _ in range(steps):
            for named in groups.values():
                for _, parameter in named:
                    parameter.grad = parameter.detach().clone()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            rate.step()

    def test_every_parameter_is_in_exactly_one_group(self) -> None:
        factory = self.make()
        assert isinstance(factory, OptimizerFactory)
        groups, optimizer, rate = self.built()
        assert isinstance(optimizer, torch.optim.Optimizer)
        assert isinstance(rate, torch.optim.lr_scheduler.LRScheduler)
        held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        expected = [parameter for named in groups.values() for _, parameter in named]
        assert sorted(map(id, held)) == sorted(map(id, expected))

    def test_rates_are_finite_and_not_negative(self) -> None:
        groups, optimizer, rate = self.built()
        for _ in range(10):
            assert all(math.isfinite(lr) and lr >= 0 for lr in rate.get_last_lr())
            self.run(groups, optimizer, rate, 1)

    def test_goes_downhill(self) -> None:
        groups, optimizer, rate = self.built()
        before = sum(float(value.square().sum()) for value in values(groups))
        self.run(groups, optimizer, rate, 10)
        after = sum(float(value.square().sum()) for value in values(groups))
        assert after < before

    def test_a_parameter_without_gradient_is_left_alone(self) -> None:
        groups, optimizer, rate = self.built()
        self.run(groups, optimizer, rate, 2)
        before = values(groups)
        optimizer.step()
        assert equal(values(groups), before)

    def test_a_resumed_optimizer_equals_the_uninterrupted_one_bit_for_bit(self) -> None:
        groups, optimizer, rate = self.built()
        self.run(groups, optimizer, rate, 3)
        again, resumed, resumed_rate = self.built()
        with torch.no_grad():
            for (_, parameter), value in zip((entry for named in again.values() for entry in named), values(groups), strict=True):
                parameter.copy_(value)
        resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        resumed_rate.load_state_dict(copy.deepcopy(rate.state_dict()))
        self.run(groups, optimizer, rate, 3)
        self.run(again, resumed, resumed_rate, 3)
        assert equal(values(groups), values(again))
        assert rate.get_last_lr() == resumed_rate.get_last_lr()
