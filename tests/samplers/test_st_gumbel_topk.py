"""The fused sampler against a dense straight-through reference written plainly with autograd."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from core.contracts import Sampler, UserError
from plugins.samplers import _topk
from plugins.samplers.st_gumbel_topk import StGumbelTopk, gumbel

B, T, D, V, K, TEMPERATURE = 3, 5, 16, 60, 8, 0.7


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def network(dtype: torch.dtype, seed: int = 0) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    states, weight, bias, embedding = (torch.randn(*s, generator=source, dtype=torch.float64) for s in ((B, T, D), (V, D), (V,), (V, D)))
    return states.to(dtype).requires_grad_(), ((weight / 2).to(dtype), bias.to(dtype)), embedding.to(dtype)


def dense(states, head, embedding, noise, k=K):
    """[B, T, V] one-hot and soft choice over the k kept tokens; returns text, its one-hot ids and the soft text."""
    logits = F.linear(states, *head)  # [B, T, V]
    kept = logits.topk(k, dim=-1).indices
    noisy = torch.full_like(logits, -torch.inf).scatter(-1, kept, logits.gather(-1, kept) + noise)  # [B, T, V]
    soft = (noisy / TEMPERATURE).softmax(-1)
    hard = F.one_hot(noisy.argmax(-1), V).to(soft.dtype)
    return (hard + soft - soft.detach()) @ embedding, noisy.argmax(-1), soft @ embedding


@pytest.fixture(params=[(2**23, 512), (4 * K, 4)])  # the vocabulary in one chunk; chunks of K tokens, four rows at a time
def chunk(request, monkeypatch):
    elements, rows = request.param
    monkeypatch.setitem(_topk.CHUNK_ELEMENTS, "cpu", elements)
    monkeypatch.setattr(_topk, "ROWS", rows)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
@pytest.mark.parametrize("k", [K, V, 10 * V])
def test_gradient_equals_the_dense_reference(dtype, tolerance, k):
    states, head, embedding = network(dtype)
    upstream = torch.randn(B, T, D, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(dtype)
    text, seen = StGumbelTopk(k=k, temperature=TEMPERATURE)(states, head, embedding, generators(1, 2, 3))
    (fused,) = torch.autograd.grad(text, states, upstream)
    noise = torch.stack([gumbel(T, min(k, V), g) for g in generators(1, 2, 3)])
    reference, ids, _ = dense(states, head, embedding, noise, min(k, V))
    (wanted,) = torch.autograd.grad(reference, states, upstream)
    assert wanted.norm() > 0.1
    assert (fused - wanted).norm() / wanted.norm() < tolerance
    assert torch.equal(seen["ids"], ids)


def test_backward_is_the_derivative_of_the_soft_text():
    states, head, embedding = network(torch.float64)
    noise = torch.stack([gumbel(T, K, g) for g in generators(1, 2, 3)])
    direction, step = torch.randn_like(states), 1e-6
    upstream = torch.randn(B, T, D, dtype=torch.float64)
    text, _ = StGumbelTopk(k=K, temperature=TEMPERATURE)(states, head, embedding, generators(1, 2, 3))
    (gradient,) = torch.autograd.grad(text, states, upstream)
    with torch.no_grad():
        ahead, behind = (dense(states + sign * step * direction, head, embedding, noise)[2] for sign in (1, -1))
    slope = ((ahead - behind) / (2 * step) * upstream).sum()
    assert abs((gradient * direction).sum() - slope) < 1e-6 * slope.abs().clamp(min=1)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_is_exactly_an_embedding_row(dtype):
    states, head, embedding = network(dtype)
    text, seen = StGumbelTopk(k=K)(states, head, embedding, generators(1, 2, 3))
    assert torch.equal(text, embedding[seen["ids"]])
    assert text.dtype == dtype
    assert text.requires_grad
    assert not seen["topk_mass"].requires_grad
    text.float().square().sum().backward()
    assert states.grad.dtype == dtype
    assert states.grad.isfinite().all()


def test_bfloat16_layers_take_float32_states_also_under_autocast():
    states, head, embedding = network(torch.bfloat16)
    wide = states.detach().float().requires_grad_()
    outcomes = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            text, _ = StGumbelTopk(k=K)(wide, head, embedding, generators(1, 2, 3))
            outcomes.append((text, *torch.autograd.grad(text.float().sum(), wide)))
    assert outcomes[0][1].dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))


def test_topk_mass_is_the_kept_probability():
    states, head, embedding = network(torch.float32)
    _, seen = StGumbelTopk(k=K)(states, head, embedding, generators(1, 2, 3))
    wanted = F.linear(states, *head).softmax(-1).topk(K, dim=-1).values.sum(-1)
    torch.testing.assert_close(seen["topk_mass"], wanted, check_dtype=False)
    assert torch.allclose(StGumbelTopk(k=V)(states, head, embedding, generators(1, 2, 3))[1]["topk_mass"], torch.ones(B, T))


def test_noise_is_the_rows_own():
    states, head, embedding = network(torch.float32)
    sampler = StGumbelTopk(k=K)
    text, _ = sampler(states, head, embedding, generators(1, 2, 3))
    again, _ = sampler(states, head, embedding, generators(1, 2, 3))
    other, _ = sampler(states, head, embedding, generators(4, 5, 6))
    alone, _ = sampler(states[1:2], head, embedding, generators(2))
    swapped, _ = sampler(states[[2, 1, 0]], head, embedding, generators(3, 2, 1))
    assert torch.equal(text, again)
    assert not torch.equal(text, other)
    assert torch.equal(text[1:2], alone)
    assert torch.equal(text[[2, 1, 0]], swapped)


def test_choices_follow_the_softmax():
    """Gumbel-max: the hard choice is a draw from softmax(logits) over the kept tokens."""
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    states = torch.ones(1, 20000, 1)
    _, seen = StGumbelTopk(k=3)(states, (logits[:, None], None), torch.randn(4, 2), generators(0))
    share = torch.bincount(seen["ids"].flatten(), minlength=4) / 20000
    torch.testing.assert_close(share[:3], logits[:3].softmax(0), atol=0.015, rtol=0)
    assert share[3] == 0


@pytest.mark.usefixtures("chunk")
def test_topk_and_mass_do_not_depend_on_the_chunks():
    states, (weight, bias), _ = network(torch.float64)
    top, kept, whole = _topk._likeliest(states.detach().flatten(0, 1)[:4], weight, bias, K)
    logits = F.linear(states.detach().flatten(0, 1)[:4], weight, bias)
    wanted = logits.topk(K, dim=1)
    torch.testing.assert_close(top, wanted.values)
    assert torch.equal(kept, wanted.indices)
    torch.testing.assert_close(whole, logits.logsumexp(1))


def test_noise_is_the_same_under_activation_checkpointing():
    """The generators are made outside; a recomputed forward must make them anew, as the loop's derived noise does."""
    states, head, embedding = network(torch.float32)

    def text(given):
        return StGumbelTopk(k=K)(given, head, embedding, generators(1, 2, 3))[0]

    plain, again = text(states), checkpoint(text, states, use_reentrant=False)
    assert torch.equal(plain, again)
    (one,), (other,) = (torch.autograd.grad(y.square().sum(), states) for y in (plain, again))
    assert torch.equal(one, other)


def test_trained_layers_are_refused_unless_no_gradient_is_asked_for():
    states, (weight, bias), embedding = network(torch.float32)
    for head, table in (((weight.clone().requires_grad_(), bias), embedding), ((weight, bias), embedding.clone().requires_grad_())):
        with pytest.raises(UserError, match="gives no gradient to the"):
            StGumbelTopk(k=K)(states, head, table, generators(1, 2, 3))
        with torch.no_grad():
            StGumbelTopk(k=K)(states, head, table, generators(1, 2, 3))


def test_arguments_are_checked():
    states, head, embedding = network(torch.float32)
    assert isinstance(StGumbelTopk(), Sampler)
    with pytest.raises(ValueError, match="one generator for each of the 3 rows"):
        StGumbelTopk()(states, head, embedding, generators(1))
    with pytest.raises(ValueError, match="k must"):
        StGumbelTopk(k=0)
    with pytest.raises(ValueError, match="temperature must"):
        StGumbelTopk(temperature=0.0)


def test_a_k_beyond_the_vocabulary_is_told() -> None:
    states, table = torch.randn(1, 2, 4), torch.randn(6, 4)
    with pytest.warns(UserWarning, match="k=9 is more than the 6 tokens of this vocabulary"):
        text, _ = StGumbelTopk(k=9)(states, (table, None), table, [torch.Generator().manual_seed(0)])
    assert text.shape == (1, 2, 4)
