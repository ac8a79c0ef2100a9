"""The contract kit of samplers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.contracts import Sampler
from core.testing.losses import generators


class SamplerKit:
    """Give ``make``. States are [3, 5, 8] over 20 tokens.

    hard: the text is, forward, the embedding row of the diagnostic ``ids``.
    may_be_certain: a token's text may be certain and then pass no gradient on, as in a nucleus of one token. Where all tokens are
        about equally likely, each state must still get one.
    """

    hard = False
    may_be_certain = False

    def make(self) -> Sampler:
        raise NotImplementedError

    def case(self) -> tuple[Tensor, tuple[Tensor, Tensor | None], Tensor]:
        """States [3, 5, 8], the output layer [20, 8] and [20], the embedding [20, 8]."""
        draw = torch.Generator().manual_seed(0)
        states, weight, bias, embedding = (torch.randn(*size, generator=draw) for size in ((3, 5, 8), (20, 8), (20,), (20, 8)))
        return states, (weight, bias), embedding

    def test_shapes_types_and_diagnostics(self) -> None:
        sampler, (states, head, embedding) = self.make(), self.case()
        assert isinstance(sampler, Sampler)
        for bias in (head[1], None):
            text, seen = sampler(states, (head[0], bias), embedding, generators(3))
            assert text.shape == states.shape
            assert text.dtype == embedding.dtype
            assert text.isfinite().all()
            assert {"topk_mass", "ids"} <= set(seen)
            for name, values in seen.items():
                assert values.shape == (3, 5), name
            assert seen["ids"].dtype == torch.int64
            assert ((seen["ids"] >= 0) & (seen["ids"] < 20)).all()
            assert ((seen["topk_mass"] >= 0) & (seen["topk_mass"] <= 1 + 1e-5)).all()

    def test_the_gradient_reaches_the_states_of_every_token(self) -> None:
        """Without it the description learns nothing from the mask loss."""
        sampler, (states, head, embedding) = self.make(), self.case()
        if self.may_be_certain:
            states, head = states / 100, (head[0], None)
        states.requires_grad_()
        text, _ = sampler(states, head, embedding, generators(3))
        assert text.requires_grad, "the text has no gradient: the description learns nothing from the mask loss"
        (text * torch.arange(8.0)).sum().backward()
        assert states.grad is not None
        assert states.grad.isfinite().all()
        without = [tuple(place) for place in (states.grad.norm(dim=2) == 0).nonzero().tolist()]
        if without:
            lost = f"no gradient reaches the states of the tokens (row, place) {without}: the mask teaches the description nothing there"
            certain = "; if a choice may be certain, as in a nucleus of one token, declare may_be_certain = True"
            pytest.fail(lost + ("" if self.may_be_certain else certain), pytrace=False)

    def test_a_row_depends_on_nothing_but_itself_and_its_generator(self) -> None:
        sampler, (states, head, embedding) = self.make(), self.case()
        together, _ = sampler(states, head, embedding, generators(3))
        for row in range(3):
            alone, _ = sampler(states[row : row + 1], head, embedding, generators(1, row))
            torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-6)

    def test_draws_from_the_generators_only(self) -> None:
        sampler, (states, head, embedding) = self.make(), self.case()
        torch.manual_seed(1)
        first, seen = sampler(states, head, embedding, generators(3))
        torch.manual_seed(2)
        again, seen_again = sampler(states, head, embedding, generators(3))
        assert torch.equal(first, again)
        assert torch.equal(seen["ids"], seen_again["ids"])

    def test_hard_text_is_the_embedding_of_its_ids(self) -> None:
        sampler, (states, head, embedding) = self.make(), self.case()
        text, seen = sampler(states, head, embedding, generators(3))
        if self.hard:
            torch.testing.assert_close(text, embedding[seen["ids"]])

    def test_inputs_are_not_changed(self) -> None:
        sampler, (states, head, embedding) = self.make(), self.case()
        before = states.clone(), head[0].clone(), embedding.clone()
        sampler(states, head, embedding, generators(3))
        assert all(torch.equal(a, b) for a, b in zip((states, head[0], embedding), before, strict=True))
