"""Straight-through Gumbel sampling over the top-k logits, without ever holding a [B, T, V] tensor.

Sources: straight-through Gumbel-softmax, Jang et al., arXiv:1611.01144. Only the k kept logits carry gradient and the
output layer and the embedding are frozen, so one autograd function goes from states to text embeddings: it
processes the vocabulary in chunks whose logits stay in the processor's cache, each row keeps its k likeliest tokens so far,
and only k indices and k soft weights per row are stored for backward. Backward reads the k chosen rows of the two tables only.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from core.contracts import Count, Positive, UserError
from core.late import torch

if TYPE_CHECKING:
    from torch import Tensor


class StGumbelTopk:
    """Forward: the embedding row of the token with the largest ``logit + gumbel`` among the k likeliest.
    Backward: the gradient of ``softmax((logit + gumbel) / temperature) @ embedding`` over the same k tokens.

    k: tokens kept in each row; clamped to the vocabulary. temperature: of the soft weights; the gradient shrinks as it grows.
    """

    def __init__(self, *, k: Count = 512, temperature: Positive = 0.7) -> None:
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}.")
        if not temperature > 0:
            raise ValueError(f"temperature must be greater than 0, not {temperature}.")
        self.k, self.temperature = k, temperature

    def __call__(
        self, states: Tensor, head: tuple[Tensor, Tensor | None], embedding: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """[B, T, D] states, output layer ([V, D], [V] or None), [V, D] embedding, B CPU generators -> [B, T, D] rows of the embedding.

        Diagnostics: ``topk_mass`` [B, T] float32, the probability (temperature 1) that the kept tokens hold; ``ids`` [B, T] int64.
        Row b's noise is the next T * k draws of generator b, whatever else is in the batch.
        Raises UserError when the output layer or the embedding is trained: this function has no gradient for them.
        """
        from plugins.samplers._topk import StraightThrough  # late: it loads torch

        weight, bias = head
        for name, tensor in (("the output layer's weight", weight), ("the output layer's bias", bias), ("the embedding", embedding)):
            if tensor is not None and tensor.requires_grad and torch.is_grad_enabled():
                raise UserError(f"st_gumbel_topk gives no gradient to {name}: leave it out of model.train, or use the sampler st_gumbel")
        B, T, _ = states.shape
        if len(generators) != B:
            raise ValueError(f"st_gumbel_topk needs one generator for each of the {B} rows of states, not {len(generators)}.")
        k = min(self.k, weight.shape[0])
        if k < self.k:
            what = f"st_gumbel_topk: k={self.k} is more than the {k} tokens of this vocabulary, all of which are kept"
            warnings.warn(f"{what}; st_gumbel is the sampler for that", stacklevel=2)
        noise = torch.stack([gumbel(T, k, generator) for generator in generators]).to(states.device)  # [B, T, k]
        text, mass, ids = StraightThrough.apply(states.flatten(0, 1), weight, bias, embedding, noise.flatten(0, 1), self.temperature)
        return text.unflatten(0, (B, T)), {"topk_mass": mass.unflatten(0, (B, T)), "ids": ids.unflatten(0, (B, T))}


def gumbel(tokens: int, k: int, generator: torch.Generator) -> Tensor:
    """[tokens, k] float32 standard Gumbel noise on the CPU."""
    uniform = torch.rand(tokens, k, generator=generator).clamp_min_(torch.finfo(torch.float32).tiny)  # rand may give 0
    return -(-uniform.log()).log()
