"""From states to the embeddings of sampled tokens as one autograd function, over the k likeliest tokens: see ``st_gumbel_topk``.

The samplers that draw one token and replace the gradient of that choice differ in two things only: how the token is drawn, and which
distributions over the kept tokens stand for the choice in backward.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from core.contracts import UserError

#: device type -> elements of the largest temporary. On a CPU 8 MiB of logits stay in the last-level cache.
CHUNK_ELEMENTS = {"cpu": 2**21, "cuda": 2**26}
ROWS = 512  # states that are multiplied with the vocabulary together


@dataclass(frozen=True)
class Choice:
    """What a rule makes of N rows of k logits."""

    place: Tensor  # [N] int64, the token that is drawn: its place among the k
    softs: Tensor  # [S, N, k], distributions over the kept tokens
    divisors: Sequence[float]  # S; backward is the sum over s of the gradient of a softmax whose value is softs[s], divided by divisors[s]


Rule = Callable[[Tensor], Choice]  # from the logits [N, k], largest first


def sample(
    name: str,
    k: int,
    states: Tensor,
    head: tuple[Tensor, Tensor | None],
    embedding: Tensor,
    generators: Sequence[torch.Generator],
    rule: Rule,
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """A call of the sampler ``name``, as ``core.contracts.Sampler``.

    Raises UserError when the output layer or the embedding is trained: this function has no gradient for them. Warns where ``k`` is
    more than the vocabulary.
    """
    weight, bias = head
    for what, tensor in (("the output layer's weight", weight), ("the output layer's bias", bias), ("the embedding", embedding)):
        if tensor is not None and tensor.requires_grad and torch.is_grad_enabled():
            raise UserError(f"{name} gives no gradient to {what}: leave it out of model.train, or use the sampler st_gumbel")
    B, T, _ = states.shape
    if len(generators) != B:
        raise ValueError(f"{name} needs one generator for each of the {B} rows of states, not {len(generators)}.")
    kept = min(k, weight.shape[0])
    if kept < k:
        told = f"{name}: k={k} is more than the {kept} tokens of this vocabulary, all of which are kept"
        warnings.warn(f"{told}; st_gumbel is the sampler for that" if name == "st_gumbel_topk" else told, stacklevel=3)
    text, mass, ids = StraightThrough.apply(states.flatten(0, 1), weight, bias, embedding, kept, rule)
    return text.unflatten(0, (B, T)), {"topk_mass": mass.unflatten(0, (B, T)), "ids": ids.unflatten(0, (B, T))}


class StraightThrough(torch.autograd.Function):
    """N = B * T rows. Sums are taken in float32 (float64 for float64 weights), the output layer runs in its own dtype."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, embedding: Tensor, k: int, rule: Rule
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast(states.device.type, enabled=False):
            parts = [_likeliest(rows, weight, bias, k) for rows in states.to(weight.dtype).split(ROWS)]
        top, kept, whole = (torch.cat(part) for part in zip(*parts, strict=True))  # [N, k], [N, k], [N]
        mass = (top.logsumexp(1) - whole).exp().float()  # [N]
        choice = rule(top)
        ids = kept.gather(1, choice.place[:, None]).squeeze(1)  # [N]
        ctx.save_for_backward(kept, choice.softs, weight, embedding)
        ctx.divisors, ctx.dtype = choice.divisors, states.dtype
        ctx.mark_non_differentiable(mass, ids)
        return embedding[ids], mass, ids  # [N, D], [N], [N]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kept, softs, weight, embedding = ctx.saved_tensors
        N, k = kept.shape
        out = torch.empty(N, weight.shape[1], dtype=ctx.dtype, device=kept.device)  # [N, D]
        # on a CPU a few rows at a time: what is gathered for them stays in the cache
        step = max(1, CHUNK_ELEMENTS[kept.device.type] // 4 // (k * weight.shape[1]))
        with torch.autocast(kept.device.type, enabled=False):
            for i in range(0, N, step):
                rows = slice(i, i + step)
                grad = grads[0][rows].to(softs.dtype)  # [n, D]
                # as a row times a matrix, and gathered by F.embedding: each ten times faster on a CPU than the other order and indexing
                chosen = F.embedding(kept[rows], embedding).to(softs.dtype)  # [n, k, D]
                d_soft = torch.bmm(grad.unsqueeze(1), chosen.transpose(1, 2)).squeeze(1)  # [n, k], <grad, E[idx_j]>
                d_logits = _through_softmax(softs[0, rows], d_soft) / ctx.divisors[0]  # [n, k]
                for soft, divisor in zip(softs[1:, rows], ctx.divisors[1:], strict=True):
                    d_logits += _through_softmax(soft, d_soft) / divisor
                if weight.dtype == d_logits.dtype:  # sums rows of the table where they lie
                    out[rows] = F.embedding_bag(kept[rows], weight, per_sample_weights=d_logits, mode="sum").to(ctx.dtype)
                else:
                    table = F.embedding(kept[rows], weight).to(d_logits.dtype)  # [n, k, D]
                    out[rows] = torch.bmm(d_logits.unsqueeze(1), table).squeeze(1).to(ctx.dtype)
        return out, None, None, None, None, None


def _through_softmax(p: Tensor, d: Tensor) -> Tensor:
    """The gradient [n, k] with respect to the logits of a softmax whose value is ``p``, from that with respect to its value, ``d``."""
    return p * (d - (p * d).sum(1, keepdim=True))


def _likeliest(states: Tensor, weight: Tensor, bias: Tensor | None, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """States [n, D] -> the k largest logits [n, k], largest first, their tokens [n, k], and the logsumexp of all logits [n].

    Exact. After the first chunk only logits above the row's k-th largest so far are looked at: k ln(V / chunk) of them in all.
    """
    n, V = len(states), len(weight)
    exact = torch.promote_types(weight.dtype, torch.float32)
    width = max(k, min(V, CHUNK_ELEMENTS[states.device.type] // n))
    buffer = states.new_empty(n * width)
    best, ids = states.new_empty(n, 0), torch.empty(n, 0, dtype=torch.int64, device=states.device)
    reference, total = states.new_full((n, 1), -torch.inf, dtype=exact), states.new_zeros(n, 1, dtype=exact)  # [n, 1] each
    for start in range(0, V, width):
        chunk = weight[start : start + width]  # [c, D]
        logits = buffer[: n * len(chunk)].view(n, len(chunk))
        torch.mm(states, chunk.T, out=logits)
        if bias is not None:
            logits += bias[start : start + width]
        logits = logits.to(exact)  # [n, c]
        if start == 0:
            best, ids = logits.topk(k, dim=1, sorted=False)  # [n, k] each
        else:
            best, ids = _merged(best, ids, logits, start)
        highest = best.amax(1, keepdim=True)  # [n, 1], of all logits so far
        part = (logits - highest).exp_().sum(1, keepdim=True)  # [n, 1]
        total = total * (reference - highest).exp_() + part  # nothing before the first chunk: exp(-inf) = 0
        reference = highest
    top, order = best.topk(k, dim=1)  # largest first: the j-th noise belongs to the j-th likeliest token
    return top, ids.gather(1, order), (reference + total.log()).squeeze(1)


def _merged(best: Tensor, ids: Tensor, logits: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """The k largest of ``best`` [n, k] (tokens ``ids``) and of ``logits`` [n, c] (tokens from ``start`` on)."""
    row, column = (logits > best.amin(1, keepdim=True)).nonzero(as_tuple=True)  # [m] each, by rows
    count = row.bincount(minlength=len(best))  # [n]
    place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]  # [m], within its row
    found = best.new_full((len(best), int(count.max())), -torch.inf)
    found[row, place] = logits[row, column]
    tokens = torch.zeros_like(found, dtype=ids.dtype)
    tokens[row, place] = column + start
    top, order = torch.cat([best, found], 1).topk(best.shape[1], dim=1, sorted=False)
    return top, torch.cat([ids, tokens], 1).gather(1, order)
