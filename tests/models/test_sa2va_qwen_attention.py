"""Windows and pictures of one size are one call of the attention, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen3VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLVisionAttention
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionAttention

from plugins.models.sa2va.backends import qwen_attention

LENGTHS = [16, 16, 4, 16, 8, 16, 8, 4, 16]


def computed(attention: nn.Module, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """What it gives, and the gradient of its input."""
    count, draw = sum(lengths), torch.Generator().manual_seed(3)
    patches = torch.randn(count, 32, generator=draw).requires_grad_()
    turns = (torch.randn(count, 8, generator=draw), torch.randn(count, 8, generator=draw))
    seen = attention(patches, cu_seqlens=torch.tensor([0, *lengths]).cumsum(0).int(), position_embeddings=turns)
    (seen * torch.randn(count, 32, generator=draw)).sum().backward()
    assert patches.grad is not None
    return seen.detach(), patches.grad


@pytest.mark.parametrize("lengths", [LENGTHS, [16] * 6, [5]])
@pytest.mark.parametrize(("attention", "config"), [(Qwen2_5_VLVisionAttention, Qwen2_5_VLConfig), (Qwen3VLVisionAttention, Qwen3VLConfig)])
def test_it_is_what_transformers_computes_window_by_window(attention, config, lengths, monkeypatch):
    sizes = config(vision_config={"hidden_size": 32, "num_heads": 4}).vision_config
    sizes._attn_implementation = "sdpa"
    encoder = nn.Module()
    encoder.blocks = nn.ModuleList([nn.Module()])
    encoder.blocks[0].attn = attention(sizes)
    theirs, calls, attend = computed(encoder.blocks[0].attn, lengths), [], torch.nn.functional.scaled_dot_product_attention
    names = list(encoder.state_dict())
    qwen_attention.group_windows(encoder)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *given, **how: calls.append(1) or attend(*given, **how))
    ours = computed(encoder.blocks[0].attn, lengths)
    assert len(calls) == len(set(lengths))
    for one, other in zip(theirs, ours, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-6)
    assert list(encoder.state_dict()) == names
