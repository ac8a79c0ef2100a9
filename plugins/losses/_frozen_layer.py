"""Cross entropy through a frozen output layer, its gradient made in the forward pass: see ``caption_ce``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CHUNK_ELEMENTS = 2**23  # logits held at one time: 32 MiB in float32
CACHED = 2**21  # the same on a CPU, where they are worth keeping in its cache
ROWS = 512  # states that are multiplied with a frozen output layer together


class Frozen(torch.autograd.Function):
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
