"""The gradients of an update's loops in flat buffers, and their one sum over all ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from core.engine.parallel.exchange import Exchange
from core.engine.parallel.gradients import Gradients, Groups


class Arena:
    """Lends a buffer to each loop of an update, and gets all of them back at its end.

    On several ranks the buffers are rows of one tensor. Behind the gradient a row has one flag for each parameter, above 0 where
    some rank's backward pass reached it: the sum over ranks is the union, and costs no message of its own.
    """

    def __init__(self, groups: Groups, exchange: Exchange, loops: int) -> None:
        """``loops``: how many can take part in one update. A process alone makes buffers as they are asked for."""
        self.groups, self.exchange = groups, exchange
        self.parameters = [parameter for members in groups.values() for _, parameter in members]
        self.numel = sum(parameter.numel() for parameter in self.parameters)
        self.rows = torch.zeros(loops if exchange.several else 0, self.numel + len(self.parameters), device=self.parameters[0].device)
        self._free = [Gradients(groups, row[: self.numel]) for row in reversed(self.rows.unbind())]

    def take(self) -> Gradients:
        """A buffer for one loop's gradient."""
        if not self._free and self.exchange.several:
            raise RuntimeError("more loops take part in an update than the arena has rows")
        return self._free.pop() if self._free else Gradients(self.groups)

    def give_back(self, gradients: Sequence[Gradients]) -> None:
        """The buffers of an update, in the order in which they were taken, are free for the next one."""
        self._free.extend(reversed(gradients))

    def reduce(self, gradients: Sequence[Gradients]) -> None:
        """Sums all loops' gradients over ranks, in place; losses are divided by global counts, so the sum is the mean."""
        if not self.exchange.several:
            return
        rows = self.rows[: len(gradients)]  # [n, numel + parameters]
        if [gradient.whole.data_ptr() for gradient in gradients] != [row.data_ptr() for row in rows]:
            raise RuntimeError("gradients are not the first rows of the arena: an earlier update did not hand its own back")
        for row, gradient in zip(rows, gradients, strict=True):
            flags = [float(parameter in gradient.touched) for parameter in self.parameters]
            row[self.numel :] = torch.tensor(flags, device=row.device)
        self.exchange.sum_(rows)
        for row, gradient in zip(rows, gradients, strict=True):
            flags = row[self.numel :].tolist()
            gradient.touched = {parameter for parameter, flag in zip(self.parameters, flags, strict=True) if flag > 0}
