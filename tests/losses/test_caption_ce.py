"""Chunked cross entropy against the dense one."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from core.contracts import Loss, Tokens
from plugins.losses import _frozen_layer
from plugins.losses.caption_ce import CaptionCe

B, T, D, V = 3, 6, 8, 20


def inputs(lengths=(6, 2, 0), dtype=torch.float64):
    source = torch.Generator().manual_seed(0)
    states, weight, bias = (torch.randn(*s, generator=source, dtype=torch.float64).to(dtype) for s in ((B, T, D), (V, D), (V,)))
    mask = torch.arange(T) < torch.tensor(lengths)[:, None]  # [B, T]
    ids = torch.randint(V, (B, T), generator=source)
    return states.requires_grad_(), Tokens(ids, mask), weight, bias


@pytest.fixture(params=["whole", "chunks"])  # all at once; three rows, and of a frozen layer seven tokens, in each
def chunk(request, monkeypatch):
    if request.param == "chunks":
        for name, value in (("CHUNK_ELEMENTS", 3 * V), ("CACHED", 3 * 7), ("ROWS", 3)):
            monkeypatch.setattr(_frozen_layer, name, value)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("trained", [False, True])
def test_value_and_gradients_equal_the_dense_loss(smoothing, trained):
    states, tokens, weight, bias = inputs()
    weight.requires_grad_(trained)
    bias.requires_grad_(trained)
    leaves = [states, weight, bias] if trained else [states]
    total = CaptionCe(label_smoothing=smoothing)(states, tokens, (weight, bias))
    logits = F.linear(states, weight, bias)[tokens.mask]
    wanted = F.cross_entropy(logits, tokens.ids[tokens.mask], reduction="sum", label_smoothing=smoothing)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, wanted.float())
    for found, reference in zip(torch.autograd.grad(total, leaves), torch.autograd.grad(wanted, leaves), strict=True):
        torch.testing.assert_close(found, reference, rtol=1e-5, atol=1e-6)


def test_padding_has_no_part():
    states, tokens, weight, _ = inputs((4, 2, 1))
    total = CaptionCe()(states, tokens, (weight, None))
    (gradient,) = torch.autograd.grad(total, states)
    assert (gradient[~tokens.mask] == 0).all()
    assert (gradient[tokens.mask].abs().sum(-1) > 0).all()
    other = Tokens(torch.where(tokens.mask, tokens.ids, V + 100), tokens.mask)  # an id that does not even exist
    moved = torch.where(tokens.mask[..., None], states, states + 5)
    assert CaptionCe()(moved, other, (weight, None)).item() == total.item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_no_real_token_is_a_zero_with_a_graph(smoothing):
    states, tokens, weight, bias = inputs((0, 0, 0))
    total = CaptionCe(label_smoothing=smoothing)(states, tokens, (weight, bias))
    assert total.item() == 0
    total.backward()
    assert states.grad.shape == states.shape
    assert (states.grad == 0).all()


def test_a_sum_over_rows_is_the_sum_of_the_rows():
    states, tokens, weight, bias = inputs((6, 3, 2))
    rows = [CaptionCe()(states[b : b + 1], Tokens(tokens.ids[b : b + 1], tokens.mask[b : b + 1]), (weight, bias)) for b in range(B)]
    torch.testing.assert_close(CaptionCe()(states, tokens, (weight, bias)), sum(rows))


def test_half_precision_and_no_gradient():
    states, tokens, weight, bias = inputs(dtype=torch.bfloat16)
    with torch.no_grad():
        total = CaptionCe()(states, tokens, (weight, bias))
    assert total.dtype == torch.float32
    assert not total.requires_grad
    mixed = CaptionCe()(states.float(), tokens, (weight, bias))  # wide states meet a half-precision layer
    torch.testing.assert_close(mixed, total)


@pytest.mark.parametrize("trained", [False, True])
def test_no_tensor_of_batch_by_vocabulary_is_kept(monkeypatch, trained):
    monkeypatch.setattr(_frozen_layer, "CHUNK_ELEMENTS", 2 * V)
    states, tokens, weight, bias = inputs((6, 6, 6))
    weight.requires_grad_(trained)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        CaptionCe()(states, tokens, (weight, bias)).backward()
    assert max(kept) <= max(B * T * D, V * D)
    assert sum(n for n in kept if n % V == 0 and n != V * D) < B * T * V


def test_a_sure_answer_in_half_precision_costs_nothing():
    """The target's logit and the sum over all logits are rounded alike: otherwise the loss would fall below 0."""
    source = torch.Generator().manual_seed(1)
    weight = (40 * F.normalize(torch.randn(V, D, generator=source), dim=1)).bfloat16()
    states = weight[:T].float()[None] + 0.01 * torch.randn(1, T, D, generator=source)
    total = CaptionCe()(states, Tokens(torch.arange(T)[None], torch.ones(1, T, dtype=torch.bool)), (weight, None))
    assert total.item() == 0


def test_arguments_are_checked():
    assert isinstance(CaptionCe(), Loss)
    with pytest.raises(ValueError, match="weight must"):
        CaptionCe(weight=-1.0)
    with pytest.raises(ValueError, match="label_smoothing must"):
        CaptionCe(label_smoothing=1.0)
