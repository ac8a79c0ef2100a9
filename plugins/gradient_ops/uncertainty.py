"""Uncertainty weighting: each loop's weight is learned, small where its loss stays large.

Source: Kendall et al. 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses", arXiv:1705.07115.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core.contracts import Gram, Positive
from core.late import torch

if TYPE_CHECKING:
    from torch import Tensor


class Uncertainty:
    """``g = sum_i s_i exp(-v_i) g_i``; v_i, a log-variance, goes down the gradient of ``exp(-v_i) L_i + v_i`` with rate ``lr``.

    v starts at 0, the plain sum, and settles where ``exp(-v_i) L_i = 1``. Needs the loops' losses, not their Gram matrix.
    """

    def __init__(self, *, lr: Positive = 0.01) -> None:
        if not lr > 0:
            raise ValueError(f"lr must be greater than 0, not {lr}.")
        self.lr = lr
        self._log_variance: dict[str, float] = {}  # loop -> v

    def weights(self, gram: Gram) -> Tensor:
        """[P, n] float64, of the present v; then v moves, if the losses are given."""
        v = [self._log_variance.get(loop, 0.0) for loop in gram.loops]
        if gram.losses is not None:
            for loop, old, loss in zip(gram.loops, v, gram.losses.tolist(), strict=True):
                # as a step of at most lr: one huge loss must not throw the weight away
                self._log_variance[loop] = old - self.lr * max(-1.0, min(1.0, 1 - math.exp(-old) * loss))
        return (gram.scales * torch.tensor(v, dtype=torch.float64).neg().exp()).repeat(len(gram.groups), 1)

    def state_dict(self) -> dict[str, Any]:
        """The log-variances."""
        return {"log_variance": dict(self._log_variance)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over saved log-variances."""
        self._log_variance = {loop: float(value) for loop, value in state["log_variance"].items()}
