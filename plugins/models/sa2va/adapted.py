"""Adapted linear layers that keep little for their backward pass: PEFT's own, but for the forward that trains.

PEFT casts the input of each adapter to the adapter's float32 and drops some of it, and autocast casts the rest back: each adapter
keeps a copy of its input in 16 bit and a mask of a byte or more. Here adapters of one input keep that input itself, in its own
type, and a bit for each number of it. The input of ``down_proj`` is not kept at all but made again from what made it. Numbers,
gradients and (on a CPU) the dropout drawn are PEFT's, bit for bit.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.activations import SiLUActivation

Sources = tuple[Tensor, Tensor]  # gate and up of a feed-forward layer, [..., I] each


class AdaptedLinear(Linear):  # type: ignore[misc]
    """A linear layer with PEFT's adapters. Its checkpoints, merging and everything else are PEFT's.

    PEFT's own forward serves whatever is no single plain adapter (several active ones, variants such as DoRA, biases), what is
    merged or switched off, forwards without gradient, and ``torch.compile``, which decides by itself what it keeps.
    """

    def forward(self, x: Tensor, *given: Any, made_from: Sources | None = None, **named: Any) -> Tensor:
        """[..., n] -> [..., m]; ``made_from``: what ``x`` is ``gated`` of, so that it need not be kept."""
        name = None if given or named or not torch.is_grad_enabled() or torch.compiler.is_compiling() else self._single()
        if name is None:
            return super().forward(x, *given, **named)  # type: ignore[no-any-return]
        result: Tensor = self.base_layer(x)
        dropout = self.lora_dropout[name]
        share = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
        sources = () if made_from is None else (made_from[0].detach(), made_from[1].detach())
        added: Tensor = _Adapter.apply(x, self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name], share, *sources)
        return (result + added).to(result.dtype)

    def _single(self) -> str | None:
        """The only active adapter, if it is ``B A dropout(x) * scaling`` and nothing else."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1 or not self.cast_input_dtype_enabled:
            return None
        [name] = self.active_adapters
        if name not in self.lora_A or name in self.lora_variant:
            return None
        pair, dropout = (self.lora_A[name], self.lora_B[name]), self.lora_dropout[name]
        plain = all(type(layer) is nn.Linear and layer.bias is None for layer in pair)
        return name if plain and isinstance(dropout, (nn.Dropout, nn.Identity)) else None


class _Adapter(torch.autograd.Function):
    """``B (A dropout(x)) * scaling``. A and B [r, n], [m, r] are cast to autocast's type anew in backward: no copies are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, scaling: float, share: float, *sources: Tensor) -> Tensor:
        device = x.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else a.dtype
        with torch.autocast(device, enabled=False):
            kept = torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(1 - share) if share else None
            low = F.linear(_dropped(x.to(a.dtype), kept, share).to(kind), a.to(kind))  # [..., r]
            added = F.linear(low, b.to(kind)) * scaling  # [..., m]
        inputs = (None,) if not ctx.needs_input_grad[1] else sources or (x,)
        ctx.save_for_backward(a, b, low, None if kept is None else _packed(kept), *inputs)
        ctx.scaling, ctx.share, ctx.kind, ctx.shape, ctx.dtype = scaling, share, kind, x.shape, x.dtype
        return added

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, low, bits, *inputs = ctx.saved_tensors
        need_x, need_a, need_b = ctx.needs_input_grad[:3]
        kept = None if bits is None else _unpacked(bits, ctx.shape)
        rows = (grad * ctx.scaling).flatten(0, -2)  # [N, m]
        below = rows @ b.to(ctx.kind)  # [N, r]
        grad_x = grad_a = grad_b = None
        if need_b:
            grad_b = (rows.T @ low.flatten(0, -2)).to(b.dtype)
        if need_a:
            x = gated(*inputs) if len(inputs) > 1 else inputs[0]
            grad_a = (below.T @ _dropped(x.to(a.dtype), kept, ctx.share).to(ctx.kind).flatten(0, -2)).to(a.dtype)
        if need_x:
            grad_x = _dropped((below @ a.to(ctx.kind)).to(a.dtype).view(ctx.shape), kept, ctx.share).to(ctx.dtype)
        return grad_x, grad_a, grad_b, *[None] * (len(ctx.needs_input_grad) - 3)


def _dropped(x: Tensor, kept: Tensor | None, share: float) -> Tensor:
    """Zero where not ``kept``, larger by 1 / (1 - share) elsewhere."""
    return x if kept is None else (x * kept).mul_(1 / (1 - share))


def _packed(kept: Tensor) -> Tensor:
    """bool of any shape -> uint8, eight of them in each."""
    flat = kept.flatten().view(torch.uint8)
    eights = F.pad(flat, (0, -len(flat) % 8)).unflatten(0, (-1, 8))  # [n / 8, 8]
    return (eights << torch.arange(8, dtype=torch.uint8, device=kept.device)).sum(-1, dtype=torch.uint8)


def _unpacked(bits: Tensor, shape: torch.Size) -> Tensor:
    """The other way."""
    flat = (bits[:, None] >> torch.arange(8, dtype=torch.uint8, device=bits.device)) & 1  # [n / 8, 8]
    return flat.view(torch.bool).flatten()[: shape.numel()].view(shape)


# ------------------------------------------------------------------------------------------ feed-forward layers


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """SwiGLU's product, [..., I]."""
    return F.silu(gate) * up


class _Gated(torch.autograd.Function):
    """``gated`` that keeps its two inputs alone."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return gated(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), grad * F.silu(gate)


def lean_feed_forward(llm: nn.Module) -> None:
    """Gives the feed-forward layers of transformers' Llama kind (Qwen2, Qwen3) a forward that keeps gate and up alone."""
    for module in llm.modules():
        if isinstance(getattr(module, "down_proj", None), AdaptedLinear) and isinstance(
            getattr(module, "act_fn", None), (nn.SiLU, SiLUActivation)
        ):
            module.forward = MethodType(_feed_forward, module)  # type: ignore[method-assign]


def _feed_forward(layer: Any, x: Tensor) -> Tensor:
    """[..., D] -> [..., D]."""
    gate, up = layer.gate_proj(x), layer.up_proj(x)  # [..., I]
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return layer.down_proj(layer.act_fn(gate) * up)  # type: ignore[no-any-return]
    return layer.down_proj(_Gated.apply(gate, up), made_from=(gate, up))  # type: ignore[no-any-return]
