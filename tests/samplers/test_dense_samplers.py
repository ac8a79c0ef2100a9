"""The samplers over the whole vocabulary: their formulas, and that no special token is ever drawn."""

from __future__ import annotations

import pytest
import torch

from core.contracts import Sampler
from core.testing import TinyModel
from plugins.loops.mask_caption_mask import ordinary_head
from plugins.samplers.greedy_st import GreedySt
from plugins.samplers.gumbel_rao import GumbelRao
from plugins.samplers.reinmax import ReinMax
from plugins.samplers.soft import Soft
from plugins.samplers.st_gumbel import StGumbel
from plugins.samplers.st_gumbel_topk import StGumbelTopk, gumbel

B, T, D, V, TEMPERATURE = 2, 4, 8, 20, 0.5


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(B)]


@pytest.fixture
def given() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """States [B, T, D], output layer [V, D] and [V], embedding [V, D], in float64."""
    draw = torch.Generator().manual_seed(0)
    states, weight, bias, embedding = (torch.randn(*s, generator=draw, dtype=torch.float64) for s in ((B, T, D), (V, D), (V,), (V, D)))
    return states.requires_grad_(), weight, bias, embedding


def gradient(sampler: Sampler, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    states, weight, bias, embedding = given
    text, _ = sampler(states, (weight, bias), embedding, generators())
    return text, torch.autograd.grad((text * torch.arange(D)).sum(), states)[0]


@pytest.mark.parametrize("make", [StGumbel, Soft, GreedySt])
def test_forward_and_backward_follow_the_formula(make, given) -> None:
    states, weight, bias, embedding = given
    logits = states @ weight.T + bias  # [B, T, V]
    noise = torch.stack([gumbel(T, V, generator) for generator in generators()]) if make is StGumbel else 0
    soft = ((logits + noise) / TEMPERATURE).softmax(-1) @ embedding  # [B, T, D]
    wanted = soft if make is Soft else embedding[(logits + noise).argmax(-1)]
    text, found = gradient(make(temperature=TEMPERATURE), given)
    torch.testing.assert_close(text, wanted)
    torch.testing.assert_close(found, torch.autograd.grad((soft * torch.arange(D)).sum(), states)[0])


def test_dense_and_fused_are_one_distribution() -> None:
    """Of 20,000 draws each, the shares of the tokens."""
    logits = torch.tensor([1.0, 0.0, -1.0, -0.5])
    states, head, table = torch.ones(1, 20000, 1), (logits[:, None], None), torch.randn(4, 2)
    shares = [
        torch.bincount(sampler(states, head, table, [torch.Generator().manual_seed(3)])[1]["ids"].flatten(), minlength=4) / 20000
        for sampler in (StGumbel(), StGumbelTopk(k=4))
    ]
    torch.testing.assert_close(shares[0], logits.softmax(0), atol=0.015, rtol=0)
    torch.testing.assert_close(shares[0], shares[1], atol=0.015, rtol=0)


SAMPLERS = [
    StGumbel(temperature=5.0),
    Soft(temperature=5.0),
    GreedySt(),
    StGumbelTopk(k=3),
    StGumbelTopk(k=99),
    GumbelRao(k=99, samples=2),
    ReinMax(k=99),
]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_special_tokens_are_never_drawn(sampler, dtype) -> None:
    """Also where they are the likeliest by far, where k reaches beyond the ordinary ones, and they have no weight in the gradient."""
    model = TinyModel()
    special = torch.ones(len(model.embedding()), dtype=torch.bool)
    special[model.ordinary_tokens] = False
    weight, bias = ordinary_head(model)
    assert special.any()
    embedding = model.embedding().detach().to(dtype)
    width = embedding.shape[1]
    states = torch.randn(B, 200, width, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    loud = bias.detach().to(dtype) + 50 * special  # the model itself is sure of them
    text, seen = sampler(states, (weight.detach().to(dtype), loud), embedding, generators())
    assert not special[seen["ids"]].any()
    far = embedding + 1e3 * special[:, None].to(dtype)  # a special token's share would show
    moved, _ = sampler(states, (weight.detach().to(dtype), loud), far, generators())
    assert torch.equal(text, moved)
    grads = [torch.autograd.grad(t.float().sum(), states)[0] for t in (text, moved)]
    assert torch.equal(*grads)
    assert grads[0].isfinite().all()


@pytest.mark.parametrize("make", [StGumbel, Soft, GreedySt])
def test_the_temperature_is_checked(make) -> None:
    with pytest.raises(ValueError, match="temperature must"):
        make(temperature=0.0)
