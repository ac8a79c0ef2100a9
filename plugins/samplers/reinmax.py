"""ReinMax: a straight-through gradient that is accurate to the second order.

Source: Liu, Dong, Liu, Yu and Gao, Bridging Discrete and Backpropagation: Straight-Through and Beyond, arXiv:2304.08612, algorithm 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from core.contracts import Count, Positive
from core.late import torch
from plugins.samplers.st_gumbel_topk import at_least_one_token, row_noise

if TYPE_CHECKING:
    from torch import Tensor


class ReinMax:
    """Forward: a draw D from p, the softmax over the k likeliest tokens. Backward: with q = (D + softmax(logits / temperature)) / 2,
    twice the gradient of a softmax whose value is q, less half of that of p. At temperature 1 this is Heun's rule, and its
    mean is the exact gradient of the expected loss wherever the loss is at most quadratic in the chosen embedding.

    k: tokens kept in each row; clamped to the vocabulary. temperature: above 1 there is less variance and more bias.
    """

    def __init__(self, *, k: Count = 512, temperature: Positive = 1.0) -> None:
        at_least_one_token(k, temperature)
        self.k, self.temperature = k, temperature

    def __call__(
        self, states: Tensor, head: tuple[Tensor, Tensor | None], embedding: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """As ``st_gumbel_topk``; row b's noise is the next T * k draws of generator b."""
        from plugins.samplers._topk import Choice, sample  # late: it loads torch

        def rule(top: Tensor) -> Choice:
            place = (top + row_noise(top, states.shape[1], generators)).argmax(1)  # [N]
            drawn = torch.zeros_like(top).scatter_(1, place[:, None], 1.0)  # [N, k]
            between = (drawn + (top / self.temperature).softmax(1)) / 2  # [N, k]
            return Choice(place, torch.stack([between, top.softmax(1)]), [1 / 2, -2.0])

        return sample("reinmax", self.k, states, head, embedding, generators, rule)
