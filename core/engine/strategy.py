"""How an update is carried out over processes. ``Single`` is one process; others override the reductions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from core.contracts import UserError
from core.engine.gradients import Gradients, Groups, combine, gram


class Single:
    """One process. Losses are computed on the plain module, gradients are reduced here: any number of forwards is fine."""

    rank = 0
    world = 1

    def __init__(self, groups: Groups, optimizer: torch.optim.Optimizer, clip_norm: float) -> None:
        self.groups, self.optimizer, self.clip_norm = groups, optimizer, clip_norm
        self._free: list[Gradients] = []

    @contextmanager
    def gradient(self) -> Iterator[Gradients]:
        """Backward passes inside accumulate into the result, which is averaged over ranks on leaving."""
        gradients = self._free.pop() if self._free else Gradients(self.groups)
        with gradients.collecting():
            yield gradients
        self.reduce(gradients)

    def backward(self, loss: Tensor) -> None:
        """One micro-batch's backward; ``loss`` is already divided by the global counts."""
        loss.backward()

    def reduce(self, gradients: Gradients) -> None:
        """Sums the gradients over ranks (losses are divided by global counts, so the sum is the mean)."""

    def total(self, counts: Mapping[str, float]) -> dict[str, float]:
        """Sums named numbers over ranks."""
        return dict(counts)

    def gram(self, gradients: Sequence[Gradients]) -> Tensor:
        """[P, n, n] float64."""
        return gram(gradients)

    @torch.no_grad()
    def step(self, gradients: Sequence[Gradients], weights: Tensor) -> float:
        """Steps on ``sum_i weights[p, i] g_i`` clipped to the norm; returns the norm before clipping.

        Where the norm is not finite nothing is changed.
        """
        combine(gradients, weights)
        touched = set().union(*(gradient.touched for gradient in gradients))
        for parameter, view in gradients[0].views():
            # one that no loss reached is left alone, as in plain training: a zero gradient would still decay its weight
            parameter.grad = view if parameter in touched else None
        norm = nn.utils.clip_grad_norm_([p for members in self.groups.values() for _, p in members], self.clip_norm)
        if math.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._free.extend(gradients)
        return float(norm)


def make_strategy(name: str, groups: Groups, optimizer: torch.optim.Optimizer, clip_norm: float, **options: Any) -> Single:
    """The strategy a recipe's ``launch.strategy`` names."""
    if name != "single":
        raise UserError(
            f"launch.strategy={name} is not available yet; launch.strategy=single launch.processes=1 launch.device=cpu runs it here"
        )
    return Single(groups, optimizer, clip_norm)
