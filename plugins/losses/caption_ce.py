"""Cross entropy of captions and fixed answers, without ever holding a [B, T, V] tensor.

Where the output layer is frozen, the gradient of the states is made in the forward pass, in one sweep over the vocabulary:
it is ``softmax(logits) @ weight - weight[target]``, and the first part is attention of the states over the rows of the
layer, for which the running softmax of Milakov and Gimelshein, arXiv:1805.02867, needs each logit once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from core.contracts import Tokens

CHUNK_ELEMENTS = 2**23  # logits held at one time: 32 MiB in float32
CACHED = 2**21  # the same on a CPU, where they are worth keeping in its cache
ROWS = 512  # states that go past a frozen output layer together


class CaptionCe:
    """Sum of token cross entropies over the real tokens; the engine divides by their number.

    ``weight`` is the term's weight in its loop; ``label_smoothing`` spreads that share of each target over the vocabulary.
    """

    def __init__(self, *, weight: float = 1.0, label_smoothing: float = 0.0) -> None:
        if not weight >= 0:
            raise ValueError(f"weight must not be negative, but is {weight}.")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in 0..1 (1 excluded), not {label_smoothing}.")
        self.weight, self.label_smoothing = weight, label_smoothing

    def __call__(self, states: Tensor, tokens: Tokens, head: tuple[Tensor, Tensor | None]) -> Tensor:
        """[B, T, D] states, [B, T] tokens, output layer ([V, D], [V] or None) -> scalar float32.

        Padding has no part in it. Without a real token: a zero that still has a graph. The output layer may be trained.
        """
        weight, bias = head
        rows, targets = states[tokens.mask], tokens.ids[tokens.mask]  # [R, D], [R]
        if not any(part is not None and part.requires_grad for part in head):
            with torch.autocast(states.device.type, enabled=False):
                parts = [
                    _Frozen.apply(*part, weight, bias, self.label_smoothing)
                    for part in zip(rows.split(ROWS), targets.split(ROWS), strict=True)
                ]
            return torch.stack(parts).sum()
        total = rows.new_zeros((), dtype=torch.float32)
        step = max(1, CHUNK_ELEMENTS // weight.shape[0])
        # without a real token there is one empty chunk, whose sum is a zero with a graph
        for chunk, wanted in zip(rows.split(step), targets.split(step), strict=True):
            # the logits are recomputed in backward instead of kept: one chunk of them exists at a time
            total = total + checkpoint(self._chunk, chunk, wanted, weight, bias, use_reentrant=False, preserve_rng_state=False)
        return total

    def _chunk(self, rows: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        logits = F.linear(rows.to(weight.dtype), weight, bias).float()  # [n, V]
        return F.cross_entropy(logits, targets, reduction="sum", label_smoothing=self.label_smoothing)


class _Frozen(torch.autograd.Function):
    """States [n, D], targets [n], frozen layer -> the sum of their cross entropies, scalar float32.

    Products run in the layer's precision, sums are taken in float32 (float64 for a float64 layer).
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None, smoothing: float) -> Tensor:
        n, V, exact = len(states), len(weight), torch.promote_types(weight.dtype, torch.float32)
        ctx.dtype, wanted = states.dtype, ctx.needs_input_grad[0]
        rows = states.to(weight.dtype)
        highest, total = rows.new_full((n, 1), -torch.inf, dtype=exact), rows.new_zeros(n, 1, dtype=exact)  # [n, 1] each
        right = highest.squeeze(1)  # [n], the targets' logits
        mean = torch.zeros_like(rows, dtype=exact)  # [n, D], sum of exp(logit - highest) * weight
        width = max(1, min(V, (CACHED if rows.device.type == "cpu" else CHUNK_ELEMENTS) // max(n, 1)))
        buffer = rows.new_empty(n * width)
        for start in range(0, V, width):
            chunk = weight[start : start + width]  # [c, D]
            logits = torch.mm(rows, chunk.T, out=buffer[: n * len(chunk)].view(n, len(chunk))).to(exact)  # [n, c]
            if bias is not None:
                logits += bias[start : start + width]
            place = targets - start  # [n]
            found = logits.gather(1, place.clamp(0, len(chunk) - 1).unsqueeze(1)).squeeze(1)  # [n]
            right = torch.where((place >= 0) & (place < len(chunk)), found, right)
            reference, highest = highest, torch.maximum(highest, logits.amax(1, keepdim=True))
            shrunk = (reference - highest).exp_()  # [n, 1]; 0 at first
            part = logits.sub_(highest).exp_()  # [n, c]
            total = total * shrunk + part.sum(1, keepdim=True)
            if wanted:
                mean.mul_(shrunk).add_(part.to(weight.dtype) @ chunk)
        target = F.embedding(targets, weight).to(exact)  # [n, D]
        if smoothing:
            every = weight.mean(0, dtype=exact)  # [D], whose product with a state is its mean logit
            average = rows.to(exact) @ every + (0 if bias is None else bias.mean(dtype=exact))  # [n]
            right, target = (1 - smoothing) * right + smoothing * average, (1 - smoothing) * target + smoothing * every
        if wanted:
            ctx.save_for_backward(mean.div_(total).sub_(target))
        return (highest.squeeze(1) + total.squeeze(1).log() - right).sum().float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad).to(ctx.dtype), None, None, None, None
