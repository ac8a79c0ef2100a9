"""Straight-through Gumbel sampling over the top-k logits, without ever holding a [B, T, V] tensor.

Sources: straight-through Gumbel-softmax, Jang et al., arXiv:1611.01144. Only the k kept logits carry gradient and the
output layer and the embedding are frozen, so the whole way from states to text embeddings is one autograd function:
states go through the output layer in chunks of rows, and k indices and k soft weights per row are all that is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CHUNK_ELEMENTS = 2**22  # size of the largest temporary: 16 MiB in float32


class StGumbelTopk:
    """Forward: the embedding row of the token with the largest ``logit + gumbel`` among the k likeliest.
    Backward: the gradient of ``softmax((logit + gumbel) / temperature) @ embedding`` over the same k tokens.

    k: tokens kept in each row; clamped to the vocabulary. temperature: of the soft weights; the gradient shrinks as it grows.
    """

    def __init__(self, *, k: int = 512, temperature: float = 0.7) -> None:
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
        Raises ValueError when the output layer or the embedding is trained: this function has no gradient for them.
        """
        weight, bias = head
        for name, tensor in (("the output layer's weight", weight), ("the output layer's bias", bias), ("the embedding", embedding)):
            if tensor is not None and tensor.requires_grad and torch.is_grad_enabled():
                raise ValueError(f"st_gumbel_topk gives no gradient to {name}: freeze it (requires_grad=False) or train it elsewhere.")
        B, T, _ = states.shape
        if len(generators) != B:
            raise ValueError(f"st_gumbel_topk needs one generator for each of the {B} rows of states, not {len(generators)}.")
        k = min(self.k, weight.shape[0])
        noise = torch.stack([gumbel(T, k, generator) for generator in generators]).to(states.device)  # [B, T, k]
        text, mass, ids = _StraightThrough.apply(states.flatten(0, 1), weight, bias, embedding, noise.flatten(0, 1), self.temperature)
        return text.unflatten(0, (B, T)), {"topk_mass": mass.unflatten(0, (B, T)), "ids": ids.unflatten(0, (B, T))}


def gumbel(tokens: int, k: int, generator: torch.Generator) -> Tensor:
    """[tokens, k] float32 standard Gumbel noise on the CPU."""
    uniform = torch.rand(tokens, k, generator=generator).clamp_min_(torch.finfo(torch.float32).tiny)  # rand may give 0
    return -(-uniform.log()).log()


class _StraightThrough(torch.autograd.Function):
    """N = B * T rows. Sums are taken in float32 (float64 for float64 weights), the output layer runs in its own dtype."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, embedding: Tensor, noise: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        N, k = noise.shape
        exact = torch.promote_types(weight.dtype, torch.float32)
        kept = torch.empty(N, k, dtype=torch.int64, device=states.device)
        soft = torch.empty(N, k, dtype=exact, device=states.device)
        ids = torch.empty(N, dtype=torch.int64, device=states.device)
        mass = torch.empty(N, dtype=torch.float32, device=states.device)
        with torch.autocast(states.device.type, enabled=False):
            for rows in _chunks(N, weight.shape[0]):
                logits = F.linear(states[rows].to(weight.dtype), weight, bias).to(exact)  # [n, V]
                top, kept[rows] = logits.topk(k, dim=1)  # [n, k], sorted: the j-th noise belongs to the j-th likeliest token
                mass[rows] = (top.logsumexp(1) - logits.logsumexp(1)).exp().float()  # [n]
                noisy = top + noise[rows]  # [n, k]
                ids[rows] = kept[rows].gather(1, noisy.argmax(1, keepdim=True)).squeeze(1)  # [n]
                soft[rows] = (noisy / temperature).softmax(1)  # [n, k]
        ctx.save_for_backward(kept, soft, weight, embedding)
        ctx.temperature, ctx.dtype = temperature, states.dtype
        ctx.mark_non_differentiable(mass, ids)
        return embedding[ids], mass, ids  # [N, D], [N], [N]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kept, soft, weight, embedding = ctx.saved_tensors
        out = torch.empty(kept.shape[0], weight.shape[1], dtype=ctx.dtype, device=kept.device)  # [N, D]
        with torch.autocast(kept.device.type, enabled=False):
            for rows in _chunks(kept.shape[0], kept.shape[1] * weight.shape[1]):
                grad, p = grads[0][rows].to(soft.dtype), soft[rows]  # [n, D], [n, k]
                d_soft = torch.bmm(embedding[kept[rows]].to(p.dtype), grad.unsqueeze(2)).squeeze(2)  # [n, k], <grad, E[idx_j]>
                d_logits = p * (d_soft - (p * d_soft).sum(1, keepdim=True)) / ctx.temperature  # [n, k]
                out[rows] = torch.bmm(d_logits.unsqueeze(1), weight[kept[rows]].to(p.dtype)).squeeze(1).to(ctx.dtype)  # [n, D]
        return out, None, None, None, None, None


def _chunks(rows: int, width: int) -> list[slice]:
    """Slices of rows so that [rows, width] stays under CHUNK_ELEMENTS."""
    step = max(1, CHUNK_ELEMENTS // width)
    return [slice(start, start + step) for start in range(0, rows, step)]
