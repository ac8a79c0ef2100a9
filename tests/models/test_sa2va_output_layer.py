"""The likeliest token found through a copy of the output layer in 8 bits is the layer's own."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plugins.models.sa2va import output_layer
from plugins.models.sa2va.output_layer import next_tokens

V, D = 5000, 64


@pytest.fixture(autouse=True)
def small_layers_suit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_layer, "LARGE", 1)


def layer(weight: Tensor, frozen: bool = True) -> nn.Linear:
    head = nn.Linear(*weight.shape[::-1], bias=False, dtype=weight.dtype)
    head.weight = nn.Parameter(weight, requires_grad=not frozen)
    return head


def likeliest(head: nn.Linear, states: Tensor) -> Tensor:
    return head(states.flatten(0, 1)).max(-1).indices.unflatten(0, states.shape[:2])


def weights(kind: str) -> Tensor:
    """Kinds of layers: rows of one size, of very different sizes, most nearly equal, some exactly equal, many zero."""
    torch.manual_seed(0)
    weight = torch.randn(V, D)
    if kind == "sizes":
        weight *= torch.logspace(-4, 2, V)[torch.randperm(V), None]
    elif kind == "near":
        weight = weight[:1] + 1e-4 * weight
    elif kind == "equal":
        weight[V // 2 :] = weight[: V // 2]
    elif kind == "zero":
        weight[torch.randperm(V)[: V - 50]] = 0
    elif kind == "spikes":
        weight[:, 0] *= 300
    return weight


@pytest.mark.parametrize("kind", ["plain", "sizes", "near", "equal", "zero", "spikes"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_token_is_the_layers_own(kind: str, dtype: torch.dtype) -> None:
    head = layer(weights(kind).to(dtype))
    with torch.no_grad():
        for size in (1e-3, 1.0, 50.0):
            for seed in range(5):
                states = size * torch.randn(4, 1, D, generator=torch.Generator().manual_seed(seed)).to(dtype)
                assert torch.equal(next_tokens(head, states), likeliest(head, states)), (size, seed)


def test_no_logit_is_further_off_than_the_bound() -> None:
    weight = weights("sizes")
    coarse = output_layer._coarse(weight)
    states = torch.randn(8, D)
    values = coarse.values.float() * coarse.scales.float()[:, None]
    assert (weight - values).norm(dim=1).max() <= coarse.off * (1 + 1e-6)
    assert ((states @ weight.T - states @ values.T).abs().amax(1) <= states.norm(dim=1) * coarse.off).all()


def test_few_tokens_are_computed_from_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    linear = torch.nn.functional.linear

    def watched(rows: Tensor, weight: Tensor) -> Tensor:
        seen.append(len(weight))
        return linear(rows, weight)

    monkeypatch.setattr(torch.nn.functional, "linear", watched)
    with torch.no_grad():
        next_tokens(layer(weights("plain")), torch.randn(4, 1, D))
    assert seen == [min(seen)]
    assert seen[0] < V / 50


@pytest.mark.parametrize("case", ["trained", "bias", "rows", "not finite"])
def test_where_it_does_not_suit_the_layer_is_asked(case: str) -> None:
    head: Any = layer(weights("plain"), frozen=case != "trained")
    states = torch.randn(9 if case == "rows" else 2, 1, D)
    if case == "bias":
        head.bias = nn.Parameter(torch.randn(V), requires_grad=False)
    if case == "not finite":
        states[0] = float("nan")
    with torch.no_grad():
        assert output_layer._by_candidates(head, states[:, 0]) is None
        assert torch.equal(next_tokens(head, states)[1:], likeliest(head, states)[1:])


def test_a_changed_layer_is_rounded_anew_and_a_forgotten_one_frees_its_copy() -> None:
    gc.collect()
    before = len(output_layer._COARSE)
    head = layer(weights("plain"))
    states = torch.randn(2, 1, D)
    with torch.no_grad():
        next_tokens(head, states)
        head.weight.neg_()
        assert torch.equal(next_tokens(head, states), likeliest(head, states))
        head.weight.data = weights("sizes")
        assert torch.equal(next_tokens(head, states), likeliest(head, states))
    assert len(output_layer._COARSE) == before + 1
    del head
    gc.collect()
    assert len(output_layer._COARSE) == before
