"""The likeliest next token, quickly: the output layer is the largest matrix that each new token has to read.

On a CPU a frozen one is kept a second time in 8 bits, a quarter of float32's bytes. Its logits are off by a bounded amount
(Cauchy and Schwarz: ``|(w - v) x| <= |w - v| |x|``). Every token that could be the likeliest within these bounds is computed from the
layer itself; the others cannot be, so the token is the layer's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

FEW = 8  # rows up to which a product on a CPU is bound by reading the other matrix
LARGE = 2**22  # numbers of an output layer from which a copy in 8 bits is worth its making
_CHUNK = 2**14  # rows of it that are rounded at once
_ROUNDED = 2.0**-7  # twice what rounding to bfloat16 takes off a number, relative
_SUMMED = 2.0**-11  # what float32 may lose in two sums of up to 4096 products, relative to the product of the norms


def next_tokens(head: Any, states: Tensor, packed: Tensor | None = None) -> Tensor:
    """[B, n, D] -> [B, n] int64, the likeliest token after each state. ``head``: a linear layer; ``packed``: what ``packed_head`` gave."""
    rows = states.flatten(0, 1)  # [B * n, D]: of a 3-D slice, linear would make a product of its own, and a copy of the head, per row
    tokens = _by_candidates(head, rows)
    if tokens is None:
        tokens = _logits(head, rows, packed).max(-1).indices  # argmax takes four times as long in bfloat16 on a CPU
    return tokens.unflatten(0, states.shape[:2])


def _logits(head: Any, rows: Tensor, packed: Tensor | None) -> Tensor:
    """[n, D] -> [n, V]."""
    if packed is not None:
        return torch.ops.mkldnn._linear_pointwise(rows.to(head.weight.dtype), packed, head.bias, "none", [], "")  # type: ignore[no-any-return]
    if rows.device.type == "cpu" and head.weight.dtype == torch.float32 and len(rows) <= FEW:
        logits = (head.weight @ rows.T).T  # in the order that reads the head in half the time
        return logits if head.bias is None else logits + head.bias
    return head(rows)  # type: ignore[no-any-return]


def packed_head(head: Any, rows: int) -> Tensor | None:
    """A copy of the output layer in the order in which a CPU reads it fastest for that many rows; None where there is no such order.

    A product with few rows otherwise puts the matrix into that order anew each time. The operators are those that
    torch.compile uses; products are the same but for the order of their sums.
    """
    weight = head.weight
    known = weight.device.type == "cpu" and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    if not known or _suits(head, rows) or not (weight.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return None
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)  # [V, D], opaque
    return packed


# ------------------------------------------------------------------------------------------ candidates


@dataclass
class _Coarse:
    """An output layer v in 8 bits, in place of w."""

    made_of: tuple[int, int]  # address and version of w: a changed layer is rounded anew
    values: Tensor  # [V, D] int8
    scales: Tensor  # [V] bfloat16; v = values * scales
    off: float  # the largest |w - v| of a row
    size: float  # the largest |v| of a row


_COARSE: Any = WeakTensorKeyDictionary()  # the weight of a layer -> its copy, as long as the layer lives


def _suits(head: Any, rows: int) -> bool:
    weight = head.weight
    frozen = not weight.requires_grad and head.bias is None and type(weight.data) is Tensor
    return frozen and rows <= FEW and weight.device.type == "cpu" and weight.numel() >= LARGE and weight.shape[1] <= 4096


def _by_candidates(head: Any, rows: Tensor) -> Tensor | None:
    """[n, D] -> [n] int64; None where the layer does not suit, or too many tokens are candidates."""
    if not _suits(head, len(rows)):
        return None
    weight, coarse = head.weight, _coarse(head.weight)
    short = rows.bfloat16()
    logits = torch.ops.aten._weight_int8pack_mm(short, coarse.values, coarse.scales)  # [n, V] bfloat16
    exact = rows.to(weight.dtype)
    norm, lost = exact.float().norm(dim=1), (exact.float() - short.float()).norm(dim=1)  # [n]
    top = logits.amax(1).float()  # [n]
    bound = norm * (coarse.off + _SUMMED * coarse.size) + lost * coarse.size + _ROUNDED * top.abs()  # [n], of a logit near the largest
    least = top - 2 * bound
    least = least - _ROUNDED * least.abs()  # the comparison below is in bfloat16
    chosen = (logits >= least.bfloat16()[:, None]).any(0).nonzero()[:, 0]  # [c], ascending, of all rows
    if len(chosen) > len(weight) // 8 or not bool(least.isfinite().all()):
        return None
    scores = torch.nn.functional.linear(exact, weight[chosen])  # [n, c]
    return chosen[scores.max(-1).indices]


def _coarse(weight: Tensor) -> _Coarse:
    known = (weight.data_ptr(), weight._version)
    found = _COARSE.get(weight)
    if found is None or found.made_of != known:
        found = _COARSE[weight] = _rounded(weight.detach(), known)
    return found  # type: ignore[no-any-return]


def _rounded(weight: Tensor, known: tuple[int, int]) -> _Coarse:
    values, scales = torch.empty(weight.shape, dtype=torch.int8), torch.empty(len(weight), dtype=torch.bfloat16)
    off = size = 0.0
    for start in range(0, len(weight), _CHUNK):
        part = weight[start : start + _CHUNK].float()  # [c, D]
        scale = (part.abs().amax(1) / 127).bfloat16()  # [c]
        whole = (part / scale.float().clamp_min(1e-30)[:, None]).round_().clamp_(-127, 127)  # [c, D]
        values[start : start + _CHUNK], scales[start : start + _CHUNK] = whole.to(torch.int8), scale
        back = whole.mul_(scale.float()[:, None])
        size = max(size, float(back.norm(dim=1).max()))
        off = max(off, float((part - back).norm(dim=1).max()))
    return _Coarse(known, values, scales, off, size)
