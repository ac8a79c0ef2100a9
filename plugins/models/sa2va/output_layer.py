"""The likeliest next token, quickly: the output layer is the largest matrix that each new token has to read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FEW = 8  # rows up to which a float32 product on a CPU is bound by reading the other matrix


def next_tokens(head: Any, states: Tensor, packed: Tensor | None = None) -> Tensor:
    """[B, n, D] -> [B, n] int64, the likeliest token after each state. ``head``: a linear layer; ``packed``: what ``packed_head`` gave."""
    rows = states.flatten(0, 1)  # [B * n, D]: of a 3-D slice, linear would make a product of its own, and a copy of the head, per row
    if packed is not None:
        logits = torch.ops.mkldnn._linear_pointwise(rows.to(head.weight.dtype), packed, head.bias, "none", [], "")  # [B * n, V]
    elif rows.device.type == "cpu" and head.weight.dtype == torch.float32 and len(rows) <= FEW:
        logits = (head.weight @ rows.T).T  # [B * n, V], in the order that reads the head in half the time
        logits = logits if head.bias is None else logits + head.bias
    else:
        logits = head(rows)
    return logits.max(-1).indices.unflatten(0, states.shape[:2])  # argmax takes four times as long in bfloat16 on a CPU


def packed_head(head: Any, rows: int) -> Tensor | None:
    """A copy of the output layer in the order in which a CPU reads it fastest for that many rows; None where there is no such order.

    A product with few rows otherwise puts the matrix into that order anew each time. The operators are those that
    torch.compile uses; products are the same but for the order of their sums.
    """
    weight = head.weight
    known = weight.device.type == "cpu" and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    if not known or not (weight.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return None
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)  # [V, D], opaque
    return packed
