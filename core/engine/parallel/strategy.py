"""How an update is carried out: an exchange between ranks, an arena of gradients and a step, put together.

Losses are computed on the plain module, and gradients are reduced here: any number of forwards is fine.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from core.contracts import UserError
from core.engine.parallel.arena import Arena
from core.engine.parallel.exchange import Exchange
from core.engine.parallel.gradients import Gradients, Groups, Mix, combine, gram
from core.engine.parallel.step import Step
from core.engine.parallel.table import STRATEGIES, part


class Strategy:
    """Its parts are ``exchange``, ``arena`` and ``stepper``; there are no subclasses (``core.engine.parallel.table``)."""

    def __init__(self, groups: Groups, exchange: Exchange, arena: Arena, stepper: Step, clip_norm: float) -> None:
        self.groups, self.exchange, self.arena, self.stepper, self.clip_norm = groups, exchange, arena, stepper, clip_norm
        self.rank, self.world = exchange.rank, exchange.world

    @contextmanager
    def gradient(self) -> Iterator[Gradients]:
        """Backward passes inside accumulate into the result: this rank's part of one loop's gradient."""
        self.stepper.begin()
        gradients = self.arena.take()
        with gradients.collecting():
            yield gradients

    def backward(self, loss: Tensor) -> None:
        """One micro-batch's backward; ``loss`` is already divided by the global counts."""
        self.stepper.backward(loss)

    def reduce(self, gradients: Sequence[Gradients]) -> None:
        """Sums all loops' gradients over ranks (losses are divided by global counts, so the sum is the mean)."""
        self.arena.reduce(gradients)

    def total(self, counts: Mapping[str, float]) -> dict[str, float]:
        """Sums named numbers over ranks."""
        return self.exchange.total(counts)

    def from_main(self, numbers: Tensor) -> Tensor:
        """Rank 0's ``numbers`` on all ranks: two GPUs may round a sum differently, and weights that differ would drift apart."""
        if self.world == 1:
            return numbers
        return numbers.new_tensor(self.exchange.from_main(numbers.tolist)).view(numbers.shape)  # JSON keeps every bit of a double

    def gram(self, gradients: Sequence[Gradients], per_parameter: bool = False) -> Tensor:
        """[P, n, n] float64, of P groups or parameters."""
        return gram(gradients, per_parameter)

    @torch.no_grad()
    def step(
        self, gradients: Sequence[Gradients], weights: Tensor, kept: Sequence[Gradients] = (), mixed: Mapping[str, Mix] | None = None
    ) -> float:
        """Steps on ``sum_i weights[p, i] g_i`` clipped to the norm; returns the norm before clipping.

        ``kept`` are further gradients of the sum, with the last columns of ``weights``, which outlive the update. ``mixed``: blocks
        that are no weighted sum (``combine``).
        Where the norm is not finite nothing is changed; the gradients are then still to be dropped.
        """
        norm = self._clipped([*gradients, *kept], weights, mixed or {})
        if math.isfinite(norm):
            self.stepper.step()
            self.drop(gradients)
        return norm

    def drop(self, gradients: Sequence[Gradients]) -> None:
        """Ends an update: its buffers are free for the next one."""
        self.stepper.end()
        self.arena.give_back(gradients)

    def _clipped(self, gradients: Sequence[Gradients], weights: Tensor, mixed: Mapping[str, Mix]) -> float:
        """Puts the combined, clipped gradient into ``.grad``; returns its norm before clipping."""
        combine(gradients, weights, mixed)
        touched = set().union(*(gradient.touched for gradient in gradients))
        for parameter, view in gradients[0].views():
            # one that no loss reached is left alone, as in plain training: a zero gradient would still decay its weight
            parameter.grad = view if parameter in touched else None
        parameters = [p for members in self.groups.values() for _, p in members]
        norm = self.from_main(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
        nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)  # both together: clip_grad_norm_
        return float(norm)

    def check_agreement(self, when: str) -> None:
        """Raises ``UserError`` if the trained weights of the ranks are not equal, bit for bit."""
        if self.world == 1:
            return
        digest = hashlib.sha256()
        for members in self.groups.values():
            for _, parameter in members:
                digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        found = self.exchange.gather(digest.hexdigest())
        common = max(found, key=found.count)  # the first of them in a tie
        if different := [str(rank) for rank, value in enumerate(found) if value != common]:
            raise UserError(
                f"the ranks' weights differ {when}: rank {', '.join(different)} from the others; what was trained since the last check "
                "is lost. Resume from the last checkpoint; if it comes again, look for a faulty device or for code that draws by rank"
            )


def make_strategy(
    launch: Mapping[str, Any], groups: Groups, optimizer: torch.optim.Optimizer, clip_norm: float, exchange: Exchange, loops: int
) -> Strategy:
    """The strategy that the recipe's ``launch`` names; ``loops``: the most gradients that an update has."""
    stepper = part(STRATEGIES[launch["strategy"]].step)(groups, optimizer, exchange, launch)
    return Strategy(groups, exchange, Arena(groups, exchange, loops), stepper, clip_norm)
