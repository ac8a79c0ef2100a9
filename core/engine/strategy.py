"""How an update is carried out over processes. ``Single`` is one process; others override the reductions."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from core.contracts import UserError
from core.engine.gradients import Gradients, Groups, combine, gram
from core.engine.ranks import Ranks


class Single:
    """One process. Losses are computed on the plain module, gradients are reduced here: any number of forwards is fine."""

    def __init__(self, groups: Groups, optimizer: torch.optim.Optimizer, clip_norm: float, ranks: Ranks | None = None) -> None:
        self.groups, self.optimizer, self.clip_norm, self.ranks = groups, optimizer, clip_norm, ranks or Ranks()
        self.rank, self.world = self.ranks.rank, self.ranks.world
        self._free: list[Gradients] = []

    @contextmanager
    def gradient(self) -> Iterator[Gradients]:
        """Backward passes inside accumulate into the result: this rank's part of one loop's gradient."""
        gradients = self._free.pop() if self._free else Gradients(self.groups)
        with gradients.collecting():
            yield gradients

    def backward(self, loss: Tensor) -> None:
        """One micro-batch's backward; ``loss`` is already divided by the global counts."""
        loss.backward()

    def reduce(self, gradients: Sequence[Gradients]) -> None:
        """Sums all loops' gradients over ranks (losses are divided by global counts, so the sum is the mean)."""

    def total(self, counts: Mapping[str, float]) -> dict[str, float]:
        """Sums named numbers over ranks."""
        return self.ranks.total(counts)

    def gram(self, gradients: Sequence[Gradients], per_parameter: bool = False) -> Tensor:
        """[P, n, n] float64, of P groups or parameters."""
        return gram(gradients, per_parameter)

    @torch.no_grad()
    def step(self, gradients: Sequence[Gradients], weights: Tensor, kept: Sequence[Gradients] = ()) -> float:
        """Steps on ``sum_i weights[p, i] g_i`` clipped to the norm; returns the norm before clipping.

        ``kept`` are further gradients of the sum, with the last columns of ``weights``, which outlive the update.
        Where the norm is not finite nothing is changed; the gradients are then still to be dropped.
        """
        norm = self._clipped([*gradients, *kept], weights)
        if math.isfinite(norm):
            self.optimizer.step()
            self.drop(gradients)
        return norm

    def drop(self, gradients: Sequence[Gradients]) -> None:
        """Ends an update: its buffers are free for the next one."""
        self.optimizer.zero_grad(set_to_none=True)
        self._free.extend(reversed(gradients))

    def _clipped(self, gradients: Sequence[Gradients], weights: Tensor) -> float:
        """Puts the combined, clipped gradient into ``.grad``; returns its norm before clipping."""
        combine(gradients, weights)
        touched = set().union(*(gradient.touched for gradient in gradients))
        for parameter, view in gradients[0].views():
            # one that no loss reached is left alone, as in plain training: a zero gradient would still decay its weight
            parameter.grad = view if parameter in touched else None
        return float(nn.utils.clip_grad_norm_([p for members in self.groups.values() for _, p in members], self.clip_norm))

    def whole_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer's ``state`` by parameter, for a checkpoint; all ranks call it."""
        return self.optimizer

    def restored(self, stored: torch.optim.Optimizer) -> None:
        """Parameters, and what ``whole_optimizer`` returned, have been overwritten from a checkpoint."""

    def check_agreement(self, when: str) -> None:
        """Raises ``UserError`` if the trained weights of the ranks are not equal, bit for bit."""
        if self.world == 1:
            return
        digest = hashlib.sha256()
        for members in self.groups.values():
            for _, parameter in members:
                digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        found = self.ranks.gather(digest.hexdigest())
        common = max(found, key=found.count)  # the first of them in a tie
        if different := [str(rank) for rank, value in enumerate(found) if value != common]:
            raise UserError(
                f"the ranks' weights differ {when}: rank {', '.join(different)} from the others; what was trained since the last check "
                "is lost. Resume from the last checkpoint; if it comes again, look for a faulty device or for code that draws by rank"
            )


def make_strategy(
    launch: Mapping[str, Any], groups: Groups, optimizer: torch.optim.Optimizer, clip_norm: float, ranks: Ranks, loops: int
) -> Single:
    """The strategy that the recipe's ``launch`` names; ``loops``: how many can take part in one update."""
    name = launch["strategy"]
    if name == "single":
        return Single(groups, optimizer, clip_norm, ranks)
    if name in ("ddp", "fsdp2"):  # fsdp2 has sharded the frozen weights of the model, which no strategy touches
        from core.engine.strategy_ddp import DataParallel

        return DataParallel(groups, optimizer, clip_norm, ranks, loops)
    from core.engine.strategy_deepspeed import DeepSpeedZero, self_test  # late: it imports deepspeed

    self_test(ranks, launch["zero_stage"], launch["device"])
    return DeepSpeedZero(groups, optimizer, clip_norm, ranks, loops, launch["zero_stage"])
