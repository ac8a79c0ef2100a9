"""Which kernel ``scaled_dot_product_attention`` takes on CUDA, by the rules of torch's ``sdp_utils.cpp``, and what it keeps."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from fakecuda import FakeCuda

HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Call:
    """One kind of attention that took place."""

    kernel: str  # flash, efficient or math
    place: str
    dtype: str
    mask: str  # mask, causal or none
    gradient: bool
    why: str  # what flash could not take


class Attention:
    """Takes the place of ``F.scaled_dot_product_attention`` for CUDA tensors; ``calls`` counts what took place."""

    def __init__(self, mode: FakeCuda) -> None:
        self.mode, self.plain = mode, F.scaled_dot_product_attention
        self.calls: Counter[Call] = Counter()

    def install(self) -> None:
        F.scaled_dot_product_attention = self  # type: ignore[assignment]

    def remove(self) -> None:
        F.scaled_dot_product_attention = self.plain

    def math_in(self, file: str) -> list[Call]:
        """The calls from a file of a library that fell back to the math kernel, which keeps all scores."""
        return [call for call in self.calls if call.kernel == "math" and file in call.place]

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        named: dict[str, Any] = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
        if not self.mode.on_cuda(query):
            return self.plain(query, key, value, attn_mask, **named)
        if torch.is_autocast_enabled("cuda"):
            dtype = torch.get_autocast_dtype("cuda")
            query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
            attn_mask = attn_mask.to(dtype) if attn_mask is not None and attn_mask.is_floating_point() else attn_mask
        if not query.dtype == key.dtype == value.dtype:
            raise RuntimeError(f"attention of {query.dtype}, {key.dtype} and {value.dtype}, at {self.mode.place()}")
        kernel, why = kernel_of(query, key, value, attn_mask, enable_gqa)
        mask = "mask" if attn_mask is not None else "causal" if is_causal else "none"
        gradient = torch.is_grad_enabled() and query.requires_grad
        self.calls[Call(kernel, self.mode.place(), str(query.dtype).removeprefix("torch."), mask, gradient, ", ".join(why))] += 1
        if kernel == "math":
            return self.plain(query, key, value, attn_mask, **named)
        if attn_mask is not None and attn_mask.dtype == torch.bool:  # the kernel takes numbers
            attn_mask = torch.zeros(attn_mask.shape, dtype=query.dtype, device=query.device)
        return _Kernel.apply(query, key, value, attn_mask)  # type: ignore[no-any-return]


def kernel_of(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, grouped: bool) -> tuple[str, list[str]]:
    """(flash, efficient or math; what kept flash from it)."""
    width, half = query.shape[-1], query.dtype in HALF
    faults = {
        "type": not half,
        "mask": mask is not None,
        "head size": width > 256,
        "value size": width != value.shape[-1],
        "heads": key.shape[1] != query.shape[1] and not grouped,
    }
    why = [fault for fault, there in faults.items() if there]
    if not why:
        return "flash", why
    efficient = key.shape[1] == query.shape[1] and width % (8 if half else 4) == 0 and not (mask is not None and mask.requires_grad)
    return ("efficient" if efficient else "math"), why


class _Kernel(torch.autograd.Function):
    """Shapes and saved tensors of the flash and efficient kernels: inputs, result and one number for each query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        laid = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)  # [B, T, H, D] in memory
        out = laid[..., : value.shape[-1]].transpose(1, 2)
        sums = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)  # [B, H, T]
        ctx.save_for_backward(query, key, value, out, sums, *(() if mask is None else (mask,)))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None
