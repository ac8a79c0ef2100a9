"""Stochastic gradient descent with momentum, at a constant rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn import Parameter
from torch.optim.lr_scheduler import LambdaLR


class TemplateName:
    """One optimizer group, with its ``name``, for each parameter group."""

    def __init__(self, *, lr: float, momentum: float = 0.9) -> None:
        if not lr > 0:
            raise ValueError(f"lr must be greater than 0, not {lr}.")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in 0..1 (1 excluded), not {momentum}.")
        self.lr, self.momentum = lr, momentum

    def build(self, groups: Mapping[str, Sequence[tuple[str, Parameter]]], updates: int) -> tuple[torch.optim.SGD, LambdaLR]:
        named = [{"name": group, "params": [parameter for _, parameter in members]} for group, members in groups.items() if members]
        optimizer = torch.optim.SGD(named, lr=self.lr, momentum=self.momentum)
        return optimizer, LambdaLR(optimizer, lambda update: 1.0)
