"""Gumbel-Rao: straight-through Gumbel sampling whose gradient is the mean over many noises that lead to the same token.

Source: Paulus, Maddison and Krause, Rao-Blackwellizing the Straight-Through Gumbel-Softmax Gradient Estimator, arXiv:2010.04838.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from core.contracts import Count, Positive
from core.late import torch
from plugins.samplers.st_gumbel_topk import at_least_one_token, gumbel, row_noise

if TYPE_CHECKING:
    from torch import Tensor


class GumbelRao:
    """Forward: as ``st_gumbel_topk``, a draw from the softmax over the k likeliest tokens. Backward: the mean of its gradient over
    ``samples`` fresh noises, each drawn on the condition that the same token wins. The mean of the gradient is that of
    ``st_gumbel_topk``, its variance at most as large; so a lower temperature, which has less bias, becomes affordable.

    k: tokens kept in each row; clamped to the vocabulary. temperature: of the soft weights. samples: noises; backward keeps
    ``samples`` * k weights for each token, 20 KB at 10 and 512.
    """

    def __init__(self, *, k: Count = 512, temperature: Positive = 0.5, samples: Count = 10) -> None:
        at_least_one_token(k, temperature)
        if samples < 1:
            raise ValueError(f"samples must be at least 1, not {samples}.")
        self.k, self.temperature, self.samples = k, temperature, samples

    def __call__(
        self, states: Tensor, head: tuple[Tensor, Tensor | None], embedding: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """As ``st_gumbel_topk``; row b's noise is the next (1 + samples) * T * k draws of generator b."""
        from plugins.samplers._topk import Choice, sample  # late: it loads torch

        def rule(top: Tensor) -> Choice:
            T, k = states.shape[1], top.shape[1]
            place = (top + row_noise(top, T, generators)).argmax(1)  # [N]
            drawn = [gumbel(self.samples * T, k, generator).view(self.samples, T, k) for generator in generators]
            noise = torch.stack(drawn, 1).flatten(1, 2).to(top)  # [S, N, k] in its dtype, from B of [S, T, k]
            soft = (conditioned(top, place, noise) / self.temperature).softmax(2)
            return Choice(place, soft, [self.samples * self.temperature] * self.samples)

        return sample("gumbel_rao", self.k, states, head, embedding, generators, rule)


def conditioned(logits: Tensor, place: Tensor, noise: Tensor) -> Tensor:
    """Logits with Gumbel noise as it is where token ``place`` wins: [N, k], [N], standard Gumbel noise [S, N, k] -> [S, N, k].

    They are shifted by each row's logsumexp. The winner's is the maximum, standard Gumbel; the others' are Gumbels around their own
    logits, cut off at the maximum: with E = exp(-noise), exponential, -log(E_j / p_j + E_i).
    """
    at = place.expand(len(noise), -1)[..., None]  # [S, N, 1]
    maximum = noise.gather(2, at)  # [S, N, 1]
    below = -torch.logaddexp(-noise - logits.log_softmax(1), -maximum)  # [S, N, k]
    return below.scatter(2, at, maximum)
