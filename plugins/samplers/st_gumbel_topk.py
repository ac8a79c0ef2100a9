"""Straight-through Gumbel sampling over the top-k logits, without ever holding a [B, T, V] tensor.

Sources: straight-through Gumbel-softmax, Jang et al., arXiv:1611.01144. Only the k kept logits carry gradient and the
output layer and the embedding are frozen, so one autograd function goes from states to text embeddings: it
processes the vocabulary in chunks whose logits stay in the processor's cache, each row keeps its k likeliest tokens so far,
and only k indices and k soft weights per row are stored for backward. Backward reads the k chosen rows of the two tables only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from core.contracts import Count, Positive
from core.late import torch

if TYPE_CHECKING:
    from torch import Tensor


class StGumbelTopk:
    """Forward: the embedding row of the token with the largest ``logit + gumbel`` among the k likeliest.
    Backward: the gradient of ``softmax((logit + gumbel) / temperature) @ embedding`` over the same k tokens.

    k: tokens kept in each row; clamped to the vocabulary. temperature: of the soft weights; the gradient shrinks as it grows.
    """

    def __init__(self, *, k: Count = 512, temperature: Positive = 0.7) -> None:
        at_least_one_token(k, temperature)
        self.k, self.temperature = k, temperature

    def __call__(
        self, states: Tensor, head: tuple[Tensor, Tensor | None], embedding: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """[B, T, D] states, output layer ([V, D], [V] or None), [V, D] embedding, B CPU generators -> [B, T, D] rows of the embedding.

        Diagnostics: ``topk_mass`` [B, T] float32, the probability (temperature 1) that the kept tokens hold; ``ids`` [B, T] int64.
        Row b's noise is the next T * k draws of generator b, whatever else is in the batch.
        Raises UserError when the output layer or the embedding is trained: this function has no gradient for them.
        """
        from plugins.samplers._topk import Choice, sample  # late: it loads torch

        def rule(top: Tensor) -> Choice:
            noisy = top + row_noise(top, states.shape[1], generators)  # [N, k]
            place = noisy.argmax(1)  # [N]
            return Choice(place, noisy.div_(self.temperature).softmax(1)[None], [self.temperature])

        return sample("st_gumbel_topk", self.k, states, head, embedding, generators, rule)


def at_least_one_token(k: int, temperature: float) -> None:
    """Raises ``ValueError`` unless both are above zero."""
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}.")
    if not temperature > 0:
        raise ValueError(f"temperature must be greater than 0, not {temperature}.")


def gumbel(tokens: int, k: int, generator: torch.Generator) -> Tensor:
    """[tokens, k] float32 standard Gumbel noise on the CPU."""
    uniform = torch.rand(tokens, k, generator=generator).clamp_min_(torch.finfo(torch.float32).tiny)  # rand may give 0
    return -(-uniform.log()).log()


def row_noise(top: Tensor, tokens: int, generators: Sequence[torch.Generator]) -> Tensor:
    """[N, k] Gumbel noise for the logits ``top`` of N = len(generators) * tokens rows: the next draws of each generator."""
    return torch.stack([gumbel(tokens, top.shape[1], generator) for generator in generators]).flatten(0, 1).to(top.device)
