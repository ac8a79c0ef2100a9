"""Attention of Qwen-VL's picture encoders, windows and pictures of one size in one call."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLVisionAttention, apply_rotary_pos_emb_vision
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionAttention


class _Grouped(nn.Module):
    """Without flash-attn's package transformers calls the attention for each window: thousands of times a layer in a batch of pictures."""

    qkv: nn.Linear
    proj: nn.Linear
    num_heads: int
    scaling: float

    def forward(self, hidden_states: Tensor, cu_seqlens: Tensor, position_embeddings: tuple[Tensor, Tensor], **_: Any) -> Tensor:
        """[n, C]; patches from ``cu_seqlens[i]`` to ``cu_seqlens[i + 1]`` see each other and no others."""
        lengths = cu_seqlens.diff()
        sizes = sorted(Counter(lengths.tolist()).items())  # (length, how many)
        order = None
        if len(sizes) > 1:  # patches of windows of one length side by side
            order = lengths.repeat_interleave(lengths, output_size=len(hidden_states)).argsort(stable=True)  # [n]
            hidden_states = hidden_states.index_select(0, order)
            position_embeddings = (position_embeddings[0][order], position_embeddings[1][order])
        query, key, value = self.qkv(hidden_states).unflatten(1, (3, self.num_heads, -1)).unbind(1)  # [n, H, d] each
        query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        rows = [each.split([length * count for length, count in sizes]) for each in (query, key, value)]
        seen = []
        for (_length, count), *parts in zip(sizes, *rows, strict=True):
            windows = [part.unflatten(0, (count, -1)).transpose(1, 2) for part in parts]  # [count, H, length, d]
            found = F.scaled_dot_product_attention(windows[0], windows[1], windows[2], scale=self.scaling)
            seen.append(found.transpose(1, 2).flatten(0, 1))  # [count * length, H, d]
        joined = torch.cat(seen).flatten(1)  # [n, C]
        if order is not None:
            joined = joined.index_select(0, order.argsort())
        projected: Tensor = self.proj(joined)
        return projected


class _Qwen25(_Grouped, Qwen2_5_VLVisionAttention):  # type: ignore[misc]
    pass


class _Qwen3(_Grouped, Qwen3VLVisionAttention):  # type: ignore[misc]
    pass


def group_windows(encoder: Any) -> None:
    """Changes the attention of all blocks of a picture encoder; weights and their names stay."""
    for block in encoder.blocks:
        block.attn.__class__ = {Qwen2_5_VLVisionAttention: _Qwen25, Qwen3VLVisionAttention: _Qwen3}[type(block.attn)]
