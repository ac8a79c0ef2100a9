"""Adapted linear layers that keep and move little: PEFT's own, but for the forward that trains.

PEFT casts the input of each adapter to the adapter's float32 and drops some of it, and autocast casts the rest back: each adapter
keeps a copy of its input in 16 bit and a mask of a byte or more. Here adapters of one input keep that input itself, in its own
type, and the state of the random generator, from which backward draws the dropout again. The input of ``down_proj`` is not kept at all
but made again from what made it. Gradients, all other numbers and (on a CPU) the dropout drawn are PEFT's, bit for bit where the
scaling alpha / r is a power of two: it multiplies the r numbers between A and B here, which are fewer, and B's results there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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
    merged or switched off, and ``torch.compile``, which decides by itself what it keeps.
    """

    def forward(self, x: Tensor, *given: Any, made_from: Sources | None = None, **named: Any) -> Tensor:
        """[..., n] -> [..., m]; ``made_from``: what ``x`` is ``gated`` of, so that it need not be kept."""
        name = None if given or named or torch.compiler.is_compiling() else self.single()
        if name is None:
            return super().forward(x, *given, **named)  # type: ignore[no-any-return]
        result: Tensor = self.base_layer(x)
        dropout = self.lora_dropout[name]
        share = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
        sources = () if made_from is None else (made_from[0].detach(), made_from[1].detach())
        added: Tensor = _Adapter.apply(x, self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name], share, *sources)
        return (result + added).to(result.dtype)

    def single(self) -> str | None:
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
        known = torch.amp.is_autocast_available(device)  # not on the meta device, where only shapes count
        kind = torch.get_autocast_dtype(device) if known and torch.is_autocast_enabled(device) else a.dtype
        with torch.autocast(device, enabled=False) if known else nullcontext():
            drawn = _generator(x.device).get_state() if share else None
            low = F.linear(_dropout(_wide(x, a, kind), share)[0].to(kind), a.to(kind))  # [..., r]
            added = F.linear(low * scaling, b.to(kind))  # [..., m]
        inputs = (None,) if not ctx.needs_input_grad[1] else sources or (x,)
        ctx.save_for_backward(a, b, low, *inputs)
        ctx.scaling, ctx.share, ctx.kind, ctx.shape, ctx.dtype, ctx.drawn = scaling, share, kind, x.shape, x.dtype, drawn
        return added

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, low, *inputs = ctx.saved_tensors
        need_x, need_a, need_b = ctx.needs_input_grad[:3]
        rows = grad.flatten(0, -2)  # [N, m]
        below = (rows @ b.to(ctx.kind)) * ctx.scaling  # [N, r]
        grad_x = grad_a = grad_b = kept = None
        if need_b:
            grad_b = (rows.T @ (low * ctx.scaling).flatten(0, -2)).to(b.dtype)
        if need_a or ctx.share:  # without x, anything of its shape and type draws the same
            x = grad.new_empty(ctx.shape, dtype=ctx.dtype) if not need_a else gated(*inputs) if len(inputs) > 1 else inputs[0]
            with _at(ctx.drawn, x.device):
                dropped, kept = _dropout(_wide(x, a, ctx.kind), ctx.share)
            if need_a:
                grad_a = (below.T @ dropped.to(ctx.kind).flatten(0, -2)).to(a.dtype)
        if need_x:
            grad_x = _again(_wide((below @ a.to(ctx.kind)).view(ctx.shape), a, ctx.kind), kept, ctx.share).to(ctx.dtype)
        return grad_x, grad_a, grad_b, *[None] * (len(ctx.needs_input_grad) - 3)


def _wide(x: Tensor, a: Tensor, kind: torch.dtype) -> Tensor:
    """As PEFT casts it, but for CUDA's kernels, which drop and enlarge numbers of 16 bit in float32 anyway."""
    return x if x.is_cuda and x.dtype == kind else x.to(a.dtype)


def _dropout(x: Tensor, share: float) -> tuple[Tensor, Tensor | None]:
    """Zero in a ``share`` of places, larger by 1 / (1 - share) elsewhere; and which those are, bool."""
    return torch.native_dropout(x, share, True) if share else (x, None)


def _again(x: Tensor, kept: Tensor | None, share: float) -> Tensor:
    """``x`` with the same places zero."""
    if kept is None:
        return x
    if x.is_cuda:  # one kernel
        return torch.ops.aten.native_dropout_backward(x, kept, 1 / (1 - share))  # type: ignore[no-any-return]
    return (x * kept).mul_(1 / (1 - share))


def _generator(device: torch.device) -> torch.Generator:
    """The one that a dropout on ``device`` draws from."""
    return torch.cuda.default_generators[device.index] if device.type == "cuda" else torch.default_generator


@contextmanager
def _at(state: Tensor | None, device: torch.device) -> Iterator[None]:
    """With the generator in that state, and as before afterwards."""
    if state is None:
        yield
        return
    generator = _generator(device)
    before = generator.get_state()
    generator.set_state(state)
    try:
        yield
    finally:
        generator.set_state(before)


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
