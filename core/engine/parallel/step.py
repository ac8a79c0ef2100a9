"""The step of an update: what backward passes and the optimizer need around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from core.engine.parallel.exchange import Exchange
from core.engine.parallel.gradients import Groups

#: What a checkpoint holds of an optimizer: parameter -> name -> value.
State = dict[nn.Parameter, dict[str, Tensor]]


class Step(Protocol):
    """One way to step. ``Strategy`` calls ``begin`` before each loop's backward passes, then ``step`` or not, then ``end``."""

    def begin(self) -> None:
        """Called before the backward passes of each loop; the first time in an update, the update begins."""
        ...

    def backward(self, loss: Tensor) -> None:
        """The backward pass of one micro-batch; ``loss`` is already divided by the global counts."""
        ...

    def step(self) -> None:
        """Steps on the finished gradient in ``.grad``, the same on all ranks; None stands where no loss reached a parameter."""
        ...

    def end(self) -> None:
        """Ends an update, also one without a step: no parameter holds a gradient any more."""
        ...

    def gathered_state(self) -> State:
        """The optimizer's state for a checkpoint; all ranks call it."""
        ...

    def take_state(self, state: State) -> None:
        """Goes on from a checkpoint's state; the parameters have been overwritten already."""
        ...


class TorchStep:
    """The optimizer of torch itself; every rank holds all of its state and steps for itself."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def begin(self) -> None:
        pass

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        self.optimizer.step()

    def end(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def gathered_state(self) -> State:
        return cast(State, dict(self.optimizer.state))

    def take_state(self, state: State) -> None:
        cast(State, self.optimizer.state).update(state)


def torch_step(groups: Groups, optimizer: torch.optim.Optimizer, exchange: Exchange, launch: Mapping[str, Any]) -> TorchStep:
    """The step of every strategy that keeps the optimizer's state whole on each rank."""
    return TorchStep(optimizer)
