"""The contract kits of losses: ``MaskLossKit`` for mask losses, ``TokenLossKit`` for token losses."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from core.contracts import Loss, MaskLoss, TokenLoss, Tokens


def generators(rows: int, first: int = 0) -> list[torch.Generator]:
    """One for each row, from its number alone."""
    return [torch.Generator().manual_seed(first + row) for row in range(rows)]


def check_weight(loss: Loss) -> None:
    assert isinstance(loss, Loss)
    assert math.isfinite(loss.weight)
    assert loss.weight >= 0, "weight is the term's weight in its loop"


class MaskLossKit:
    """Give ``make``. Logits are [3, 16, 16]; give losses that draw points a few of them."""

    def make(self) -> MaskLoss:
        raise NotImplementedError

    def case(self) -> tuple[Tensor, Tensor]:
        """[3, 16, 16] logits and masks: a middling prediction."""
        draw = torch.Generator().manual_seed(0)
        target = torch.zeros(3, 16, 16, dtype=torch.bool)
        target[0, 2:9, 3:12], target[1, 8:, :8], target[2, 5:7, 5:7] = True, True, True
        return torch.randn(3, 16, 16, generator=draw) + target.float(), target

    def test_gives_one_finite_float32_for_each_region(self) -> None:
        loss, (logits, target) = self.make(), self.case()
        check_weight(loss)
        for given in (logits, logits.bfloat16(), 1e4 * logits):
            value = loss(given, target, generators(3))
            assert value.shape == (3,)
            assert value.dtype == torch.float32
            assert value.isfinite().all()

    def test_a_row_depends_on_nothing_but_itself_and_its_generator(self) -> None:
        loss, (logits, target) = self.make(), self.case()
        together = loss(logits, target, generators(3))
        for row in range(3):
            alone = loss(logits[row : row + 1], target[row : row + 1], generators(1, row))
            torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-6)

    def test_draws_from_the_generators_only(self) -> None:
        loss, (logits, target) = self.make(), self.case()
        torch.manual_seed(1)
        first = loss(logits, target, generators(3))
        torch.manual_seed(2)
        assert torch.equal(loss(logits, target, generators(3)), first)

    def test_a_right_prediction_costs_less_than_a_wrong_one(self) -> None:
        loss, (_, target) = self.make(), self.case()
        right = 20 * target.float() - 10  # [3, 16, 16]
        assert (loss(right, target, generators(3)) < loss(-right, target, generators(3))).all()

    def test_the_gradient_reaches_every_regions_logits(self) -> None:
        loss, (logits, target) = self.make(), self.case()
        logits.requires_grad_()
        loss(logits, target, generators(3)).sum().backward()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()
        assert (logits.grad.flatten(1).norm(dim=1) > 0).all()

    def test_empty_and_full_masks_are_finite(self) -> None:
        loss, (logits, target) = self.make(), self.case()
        for same in (torch.zeros_like(target), torch.ones_like(target)):
            assert loss(logits, same, generators(3)).isfinite().all()

    def test_inputs_are_not_changed(self) -> None:
        loss, (logits, target) = self.make(), self.case()
        before = logits.clone(), target.clone()
        loss(logits, target, generators(3))
        assert torch.equal(logits, before[0])
        assert torch.equal(target, before[1])


class TokenLossKit:
    """Give ``make``. States are [3, 6, 8] over 11 tokens; rows have 6, 3 and 0 real tokens."""

    def make(self) -> TokenLoss:
        raise NotImplementedError

    def case(self) -> tuple[Tensor, Tokens, tuple[Tensor, Tensor | None]]:
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(11, (3, 6), generator=draw)
        mask = torch.arange(6) < torch.tensor([[6], [3], [0]])
        states, weight, bias = (torch.randn(*size, generator=draw) for size in ((3, 6, 8), (11, 8), (11,)))
        return states, Tokens(ids, mask), (weight, bias)

    def test_gives_one_finite_float32(self) -> None:
        loss, (states, tokens, head) = self.make(), self.case()
        check_weight(loss)
        for given in (states, states.bfloat16()):
            for bias in (head[1], None):
                value = loss(given, tokens, (head[0], bias))
                assert value.shape == ()
                assert value.dtype == torch.float32
                assert value.isfinite()

    def test_is_the_sum_over_rows(self) -> None:
        """A sum, not a mean: the engine divides by the count over the whole update."""
        loss, (states, tokens, head) = self.make(), self.case()
        rows = [loss(states[i : i + 1], Tokens(tokens.ids[i : i + 1], tokens.mask[i : i + 1]), head) for i in range(3)]
        torch.testing.assert_close(loss(states, tokens, head), torch.stack(rows).sum(), rtol=1e-5, atol=1e-5)

    def test_padding_has_no_part_in_it(self) -> None:
        loss, (states, tokens, head) = self.make(), self.case()
        value = loss(states, tokens, head)
        other = torch.where(tokens.mask[..., None], states, 99.0)
        assert torch.equal(loss(other, Tokens(torch.where(tokens.mask, tokens.ids, 0), tokens.mask), head), value)

    def test_the_gradient_reaches_exactly_the_real_tokens_states(self) -> None:
        loss, (states, tokens, head) = self.make(), self.case()
        states.requires_grad_()
        loss(states, tokens, head).backward()
        assert states.grad is not None
        assert states.grad.isfinite().all()
        assert torch.equal(states.grad.norm(dim=2) > 0, tokens.mask)

    def test_without_a_real_token_it_is_a_zero_with_a_graph(self) -> None:
        loss, (states, tokens, head) = self.make(), self.case()
        states.requires_grad_()
        value = loss(states, Tokens(tokens.ids, torch.zeros_like(tokens.mask)), head)
        assert float(value.detach()) == 0
        value.backward()
        assert states.grad is None or not states.grad.any()

    def test_a_right_prediction_costs_less_than_a_wrong_one(self) -> None:
        loss, (_, tokens, _) = self.make(), self.case()
        head = (torch.eye(11), None)
        right = 5 * torch.nn.functional.one_hot(tokens.ids, 11).float()  # [3, 6, 11]
        assert loss(right, tokens, head) < loss(right.roll(1, dims=2), tokens, head)

    def test_gives_the_same_again(self) -> None:
        loss, (states, tokens, head) = self.make(), self.case()
        torch.manual_seed(1)
        first = loss(states, tokens, head)
        torch.manual_seed(2)
        assert torch.equal(loss(states, tokens, head), first)
