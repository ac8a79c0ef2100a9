"""``reinmax`` and ``gumbel_rao`` against the exact gradient of an expected loss over a few tokens, and against their papers' formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from core.contracts import Sampler, UserError
from plugins.samplers.gumbel_rao import GumbelRao, conditioned
from plugins.samplers.reinmax import ReinMax
from plugins.samplers.st_gumbel_topk import StGumbelTopk, gumbel

V = 5  # tokens; the states are the logits themselves, so that their width is V too
LOGITS = torch.tensor([1.2, 0.3, -0.4, 0.0, -1.5], dtype=torch.float64)
TABLE = torch.randn(V, V, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
MATRIX = torch.randn(V, V, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
Loss = Callable[[Tensor], Tensor]  # [..., V] texts -> [...]


def linear(text: Tensor) -> Tensor:
    return text @ MATRIX[0]


def quadratic(text: Tensor) -> Tensor:
    return linear(text) + ((text @ MATRIX) * text).sum(-1)


def cubic(text: Tensor) -> Tensor:
    return quadratic(text) + (text @ MATRIX[1]) ** 3 / 2


def exact(loss: Loss) -> Tensor:
    """[V], the gradient of the expected loss with respect to the logits."""
    logits = LOGITS.clone().requires_grad_()
    return torch.autograd.grad((logits.softmax(0) * loss(TABLE)).sum(), logits)[0]


def estimates(sampler: Sampler, loss: Loss, draws: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """([draws, V] estimates of the gradient, [draws] the tokens that were drawn)."""
    states = LOGITS.expand(1, draws, V).clone().requires_grad_()
    text, seen = sampler(states, (torch.eye(V, dtype=torch.float64), None), TABLE, [torch.Generator().manual_seed(seed)])
    (found,) = torch.autograd.grad(loss(text).sum(), states)
    return found[0], seen["ids"][0]


def straight_through(loss: Loss, token: int) -> Tensor:
    """[V], the plain straight-through estimate where ``token`` is drawn."""
    logits, text = LOGITS.clone().requires_grad_(), TABLE[token].clone().requires_grad_()
    (upstream,) = torch.autograd.grad(loss(text), text)
    return torch.autograd.grad((logits.softmax(0) @ TABLE) @ upstream, logits)[0]


def mean_by_token(sampler: Sampler, loss: Loss) -> Tensor:
    """[V], the mean of an estimate that depends on the token alone, without an error of sampling."""
    found, ids = estimates(sampler, loss, 2000)
    assert set(ids.tolist()) == set(range(V))
    first = [int((ids == token).nonzero()[0]) for token in range(V)]
    for token in range(V):
        torch.testing.assert_close(found[ids == token], found[first[token]].expand(int((ids == token).sum()), V))
    return LOGITS.softmax(0) @ found[first]


@pytest.mark.parametrize("loss", [linear, quadratic])
def test_reinmax_is_exact_to_the_second_order(loss: Loss) -> None:
    torch.testing.assert_close(mean_by_token(ReinMax(k=V), loss), exact(loss), rtol=1e-9, atol=1e-9)


def test_reinmax_is_nearer_than_straight_through() -> None:
    p = LOGITS.softmax(0)
    for loss in (quadratic, cubic):
        plain = sum(p[token] * straight_through(loss, token) for token in range(V))
        wrong, better = ((mean - exact(loss)).norm() / exact(loss).norm() for mean in (plain, mean_by_token(ReinMax(k=V), loss)))
        assert wrong > 0.05
        assert better < wrong / 2
    assert better > 1e-3  # of a loss of the third order it is no longer exact


def test_reinmax_follows_the_papers_algorithm() -> None:
    found, ids = estimates(ReinMax(k=V, temperature=1.7), cubic, 50)
    for token in set(ids.tolist()):
        logits, text = LOGITS.clone().requires_grad_(), TABLE[token].clone().requires_grad_()
        (upstream,) = torch.autograd.grad(cubic(text), text)
        drawn = F.one_hot(torch.tensor(token), V).double()
        first = logits.softmax(0)
        between = (drawn + (logits / 1.7).softmax(0)) / 2
        between = ((between.log() - logits).detach() + logits).softmax(0)
        (wanted,) = torch.autograd.grad(((2 * between - first / 2) @ TABLE) @ upstream, logits)
        torch.testing.assert_close(found[ids == token], wanted.expand(int((ids == token).sum()), V))


def spread(found: Tensor) -> float:
    """The variance of estimates [draws, V], summed over the logits."""
    return float(found.var(0).sum())


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_gumbel_rao_has_the_mean_of_straight_through_gumbel_and_less_variance(temperature: float) -> None:
    draws = 20000
    plain, _ = estimates(StGumbelTopk(k=V, temperature=temperature), quadratic, draws)
    few, _ = estimates(GumbelRao(k=V, temperature=temperature, samples=2), quadratic, draws, seed=1)
    many, _ = estimates(GumbelRao(k=V, temperature=temperature, samples=20), quadratic, draws, seed=2)
    for found in (few, many):
        error = ((plain.var(0) + found.var(0)) / draws).sqrt()  # [V], of the difference of the means
        assert ((found.mean(0) - plain.mean(0)).abs() < 5 * error).all()
    assert spread(many) < spread(few) < spread(plain)
    shares = {1.0: (0.80, 0.62), 0.3: (0.59, 0.22)}[temperature]  # of the plain variance; docs/method.md names those of 0.3
    assert (spread(few) / spread(plain), spread(many) / spread(plain)) == pytest.approx(shares, abs=0.04)


def test_gumbel_rao_comes_near_the_exact_gradient_of_a_linear_loss_as_the_temperature_falls() -> None:
    """Of a linear loss, straight-through Gumbel has no bias in the limit; the conditional mean makes that limit affordable."""
    wrong = []
    for temperature in (3.0, 0.1):
        found, _ = estimates(GumbelRao(k=V, temperature=temperature, samples=16), linear, 20000)
        wrong.append((found.mean(0) - exact(linear)).norm() / exact(linear).norm())
    assert wrong[0] > 0.3
    assert wrong[1] < 0.1


def test_conditioned_noise_lets_the_drawn_token_win_and_is_otherwise_gumbel_noise() -> None:
    draws = 20000
    noise = gumbel(draws, V, torch.Generator().manual_seed(0)).double()
    noisy = LOGITS.log_softmax(0) + noise  # [draws, V]
    place = noisy.argmax(1)
    given = conditioned(LOGITS.expand(draws, V), place, gumbel(3 * draws, V, torch.Generator().manual_seed(1)).view(3, draws, V).double())
    assert torch.equal(given.argmax(2), place.expand(3, draws))
    for row in given:  # over the tokens that were drawn, it is distributed as what was not conditioned
        shares = [(one < torch.quantile(noisy, level, dim=0)).double().mean(0) for one in (row,) for level in (0.1, 0.5, 0.9)]
        torch.testing.assert_close(torch.stack(shares), torch.tensor([[0.1], [0.5], [0.9]]).double().expand(3, V), atol=0.02, rtol=0)


def test_gumbel_rao_follows_the_formula() -> None:
    B, T, D, W, k, S = 2, 3, 6, 20, 7, 4
    draw = torch.Generator().manual_seed(3)
    states, weight, bias, table = (torch.randn(*s, generator=draw).double() for s in ((B, T, D), (W, D), (W,), (W, D)))
    states.requires_grad_()
    upstream = torch.randn(B, T, D, generator=draw).double()
    text, seen = GumbelRao(k=k, temperature=0.4, samples=S)(
        states, (weight, bias), table, [torch.Generator().manual_seed(seed) for seed in range(B)]
    )
    (found,) = torch.autograd.grad(text, states, upstream)
    top, kept = F.linear(states, weight, bias).topk(k, dim=2)  # [B, T, k] each
    for row in range(B):
        source = torch.Generator().manual_seed(row)
        place = (top[row] + gumbel(T, k, source)).argmax(1)  # [T]
        assert torch.equal(seen["ids"][row], kept[row].gather(1, place[:, None])[:, 0])
        noisy = conditioned(top[row].detach(), place, gumbel(S * T, k, source).view(S, T, k).double())  # [S, T, k]
        soft = (((noisy - top[row]).detach() + top[row]) / 0.4).softmax(2).mean(0)  # [T, k]
        wanted = torch.autograd.grad((torch.einsum("tk,tkd->td", soft, table[kept[row]]) * upstream[row]).sum(), states, retain_graph=True)[
            0
        ]
        torch.testing.assert_close(found[row], wanted[row])


@pytest.mark.parametrize("make", [GumbelRao, ReinMax])
def test_arguments_are_checked(make: type) -> None:
    table = torch.randn(V, 4)
    with pytest.raises(ValueError, match="k must"):
        make(k=0)
    with pytest.raises(ValueError, match="temperature must"):
        make(temperature=0.0)
    with pytest.raises(ValueError, match="one generator for each of the 2 rows"):
        make(k=3)(torch.randn(2, 1, 4), (table, None), table, [torch.Generator()])
    with pytest.raises(UserError, match=f"{'gumbel_rao' if make is GumbelRao else 'reinmax'} gives no gradient to the embedding"):
        make(k=3)(torch.randn(1, 1, 4), (table, None), table.clone().requires_grad_(), [torch.Generator()])
    with pytest.raises(ValueError, match="samples must"):
        GumbelRao(samples=0)
