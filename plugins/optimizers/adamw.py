"""AdamW with a learning rate that depends on nothing but the number of the update.

Source: Loshchilov and Hutter, arXiv:1711.05101. ``one_cycle`` follows Smith and Topin, arXiv:1708.07120.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from core.contracts import NotNegative, Positive, ShareBelow1, UserError, Within
from core.late import torch

if TYPE_CHECKING:
    from torch.nn import Parameter
    from torch.optim.lr_scheduler import LambdaLR


class AdamW:
    """Weight decay goes to every parameter. One optimizer group, with its ``name``, for each parameter group.

    schedule: ``constant``; ``cosine``, which would reach 0 one update after the last; ``one_cycle``, from lr / 25 up to lr
    and then down as ``cosine``. warmup: share of the updates in which the rate rises, linearly (along a cosine in
    ``one_cycle``); None: 0, and 0.3 in ``one_cycle``. decay: share of the updates, the last ones, in which the rate falls; before
    them it stays at lr; None: all after the warmup. group_lr: parameter group -> factor on lr.
    """

    def __init__(
        self,
        *,
        lr: Positive,
        betas: list[ShareBelow1] | None = None,
        weight_decay: NotNegative = 0.05,
        eps: Positive = 1e-8,
        schedule: Literal["constant", "cosine", "one_cycle"] = "constant",
        warmup: ShareBelow1 | None = None,
        decay: Annotated[float, Within(above=0, high=1)] | None = None,
        group_lr: dict[str, NotNegative] | None = None,
    ) -> None:
        betas = [0.9, 0.999] if betas is None else betas
        if not lr > 0:
            raise ValueError(f"lr must be greater than 0, not {lr}.")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers in 0..1 (1 excluded), not {betas}.")
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay must not be negative, but is {weight_decay}.")
        if not eps > 0:
            raise ValueError(f"eps must be greater than 0, not {eps}.")
        if schedule not in ("constant", "cosine", "one_cycle"):
            raise ValueError(f"schedule must be 'constant', 'cosine' or 'one_cycle', not {schedule!r}.")
        if warmup is not None and not 0 <= warmup < 1:
            raise ValueError(f"warmup must be a share of the updates in 0..1 (1 excluded), not {warmup}.")
        if decay is not None and (schedule == "constant" or not 0 < decay <= 1):
            share = "a share of the updates in 0..1 (0 excluded), with cosine or one_cycle"
            raise ValueError(f"decay must be {share}, not {decay} with {schedule}.")
        for name, factor in (group_lr or {}).items():
            if not factor >= 0:
                raise ValueError(f"group_lr.{name} must not be negative, but is {factor}.")
        self.lr, self.betas, self.weight_decay, self.eps = lr, (betas[0], betas[1]), weight_decay, eps
        self.schedule, self.group_lr = schedule, dict(group_lr or {})
        self.decay = 1.0 if decay is None else decay
        self.warmup = warmup if warmup is not None else 0.3 if schedule == "one_cycle" else 0.0

    def build(self, groups: Mapping[str, Sequence[tuple[str, Parameter]]], updates: int) -> tuple[torch.optim.AdamW, LambdaLR]:
        """Optimizer and schedule for ``updates`` steps. Raises UserError when group_lr names no parameter group."""
        self.check_groups(list(groups))
        optimizer = torch.optim.AdamW(
            [
                {"name": group, "params": [parameter for _, parameter in named], "lr": self.lr * self.group_lr.get(group, 1.0)}
                for group, named in groups.items()
                if named
            ],
            lr=self.lr,
            betas=self.betas,
            weight_decay=self.weight_decay,
            eps=self.eps,
        )

        def factor(update: int) -> float:  # a plain function: the scheduler's state is then two numbers
            return self.factor(update, updates)

        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def check_groups(self, groups: Sequence[str]) -> None:
        """Raises UserError when group_lr names no parameter group."""
        if unknown := sorted(self.group_lr.keys() - set(groups)):
            raise UserError(f"group_lr names {', '.join(unknown)}, but the parameter groups are {', '.join(groups)}.")

    def factor(self, update: int, updates: int) -> float:
        """What lr is multiplied by in update 0 .. updates - 1."""
        rise = round(self.warmup * updates)
        if update < rise:
            if self.schedule == "one_cycle":
                return 1 / 25 + (1 - 1 / 25) * _ease(update / rise)
            return (update + 1) / (rise + 1)  # no update has rate 0
        if self.schedule == "constant":
            return 1.0
        fall = max(rise, updates - round(self.decay * updates))
        return 1 - _ease(min(1.0, max(0, update - fall) / max(1, updates - fall)))


def _ease(share: float) -> float:
    """0 -> 0, 1 -> 1, along half a cosine."""
    return (1 - math.cos(math.pi * share)) / 2
