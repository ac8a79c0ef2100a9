"""Data parallel: the plain module, no wrapper, one flat sum of all loops' gradients over ranks in each update."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from core.engine.gradients import Gradients, Groups
from core.engine.ranks import Ranks
from core.engine.strategy import Single


class DataParallel(Single):
    """Every rank holds everything and steps for itself on the same gradient.

    The loops' buffers are rows of one arena. Behind the gradient a row has one flag for each parameter, above 0 where some
    rank's backward pass reached it: the sum over ranks is the union, and costs no message of its own.
    """

    def __init__(self, groups: Groups, optimizer: torch.optim.Optimizer, clip_norm: float, ranks: Ranks, loops: int) -> None:
        super().__init__(groups, optimizer, clip_norm, ranks)
        self.parameters = [parameter for members in groups.values() for _, parameter in members]
        self.numel = sum(parameter.numel() for parameter in self.parameters)
        self.arena = torch.zeros(loops, self.numel + len(self.parameters), device=self.parameters[0].device)
        self._free = [Gradients(groups, self.arena[i, : self.numel]) for i in reversed(range(loops))]

    def reduce(self, gradients: Sequence[Gradients]) -> None:
        rows = self.arena[: len(gradients)]  # [n, numel + parameters]
        if [gradient.whole.data_ptr() for gradient in gradients] != [row.data_ptr() for row in rows]:
            raise RuntimeError("gradients are not the first rows of the arena: an earlier update did not hand its own back")
        for row, gradient in zip(rows, gradients, strict=True):
            flags = [float(parameter in gradient.touched) for parameter in self.parameters]
            row[self.numel :] = torch.tensor(flags, device=row.device)
        self.ranks.sum_(rows)
        for row, gradient in zip(rows, gradients, strict=True):
            flags = row[self.numel :].tolist()
            gradient.touched = {parameter for parameter, flag in zip(self.parameters, flags, strict=True) if flag > 0}
