"""The contract kit of gradient ops: what an op must do, and what it may declare."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Literal

import pytest
import torch
from torch import Tensor, distributed

from core.contracts import ElementWise, GradientOp, Gram, Stateful
from core.testing._offers import check_offers
from core.testing.processes import in_two_processes


class GradientOpKit:
    """Give ``make``: an op for the loops ``loop1``, ``loop2`` and ``loop3``, any of which may be absent from an update.

    orthogonal_to: the part that the update adds to this loop's scaled gradient is orthogonal to it.
    conflict_free: with two loops, the update has no negative inner product with either loop's gradient.
    sum_without_conflict: where no two gradients conflict, the update is the plain weighted sum.
    symmetric: the order of the loops does not matter.
    scope: ``global``: all parameter groups get equal weights; ``group``: a group's weights depend on that group alone.

    Of an op that has ``combine`` (``ElementWise``) the declared properties are those of ``weights``, and ``combine`` has checks of its own.
    """

    orthogonal_to: str | None = None
    conflict_free = False
    sum_without_conflict = False
    symmetric = False
    scope: Literal["global", "group"] | None = None

    def make(self) -> GradientOp:
        raise NotImplementedError

    def test_offers_are_declared_whole(self) -> None:
        check_offers(self.make(), "gradient_ops")

    def test_gives_a_finite_float64_weight_for_each_group_and_loop(self) -> None:
        op = self.make()
        assert isinstance(op, GradientOp)
        for _, gram in problems():
            weights = op.weights(gram)
            assert weights.shape == (len(gram.groups), len(gram.loops))
            assert weights.dtype == torch.float64
            assert weights.isfinite().all()

    @pytest.mark.parametrize("which", ["all", "first", "second"])
    def test_zero_gradients_give_finite_weights(self, which: str) -> None:
        vectors = torch.randn(2, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        vectors[:, {"all": slice(None), "first": slice(0, 1), "second": slice(1, 2)}[which]] = 0
        assert self.make().weights(gram_of(vectors)).isfinite().all()

    def test_a_loop_that_only_has_its_running_mean_gives_finite_weights(self) -> None:
        """Such a schedule (``running``) shows the mean of a loop's earlier gradients with scale 0."""
        for _, gram in problems():
            scales = gram.scales.clone()
            scales[1] = 0
            weights = self.make().weights(Gram(gram.loops, gram.groups, gram.values, scales, gram.losses))
            assert weights.isfinite().all()

    @pytest.mark.parametrize("loop", ["loop1", "loop2"])
    def test_one_loop_alone_is_plain_training(self, loop: str) -> None:
        vectors = torch.randn(3, 1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        weights = self.make().weights(Gram((loop,), ("a", "b", "c"), vectors @ vectors.mT, torch.tensor([0.7], dtype=torch.float64)))
        torch.testing.assert_close(weights, torch.full((3, 1), 0.7, dtype=torch.float64))

    def test_the_gram_matrix_is_not_changed(self) -> None:
        for _, gram in problems():
            values, scales = gram.values.clone(), gram.scales.clone()
            self.make().weights(gram)
            assert torch.equal(gram.values, values)
            assert torch.equal(gram.scales, scales)

    def test_two_processes_agree_bit_for_bit(self) -> None:
        """Ranks have gradients, a random state and an op of their own; from the averaged gradients each draws equal weights."""

        def work(rank: int) -> list[Tensor]:
            op, draw, seen = self.make(), torch.Generator().manual_seed(rank), []
            for _, common in problems():
                n = len(common.loops)
                vectors = torch.randn(3, n, 7, dtype=torch.float64, generator=draw)  # this rank's
                distributed.all_reduce(vectors)
                seen.append(op.weights(gram_of(vectors / 2, common.scales, common.losses)))
            return seen

        for first, second in zip(*in_two_processes(work), strict=True):
            assert torch.equal(first, second), "two ranks disagree: draw nothing from a global generator"

    def test_state_survives_a_checkpoint_or_there_is_none(self) -> None:
        """With ``state_dict`` a resumed op goes on as if never stopped; without it ``weights`` is a pure function."""
        op, *grams = self.make(), *(gram for _, gram in problems())
        if not isinstance(op, Stateful):
            for gram in grams:
                assert torch.equal(op.weights(gram), op.weights(gram)), "it keeps state: add state_dict and load_state_dict"
            return
        half = len(grams) // 2
        for gram in grams[:half]:
            op.weights(gram)
        resumed = self.make()
        try:
            written = json.dumps(op.state_dict())  # as a checkpoint has it
        except TypeError as error:
            pytest.fail(f"state_dict gives what JSON cannot carry: {error}", pytrace=False)
        assert isinstance(resumed, Stateful)
        resumed.load_state_dict(json.loads(written))
        for gram in grams[half:]:
            assert torch.equal(op.weights(gram), resumed.weights(gram)), "the resumed op differs"

    def test_declared_orthogonality(self) -> None:
        if self.orthogonal_to is None:
            pytest.skip("orthogonal_to is not declared")
        for vectors, gram in problems():
            if self.orthogonal_to in gram.loops:
                anchor = gram.loops.index(self.orthogonal_to)
                added = self.make().weights(gram)  # [P, n]
                added[:, anchor] -= gram.scales[anchor]
                parts = torch.einsum("pn,pnd->pd", added, vectors)  # [P, d], what the update adds to the anchor
                inner = (parts * vectors[:, anchor]).sum(1)  # [P]
                size = parts.norm(dim=1) * vectors[:, anchor].norm(dim=1) + 1e-12
                inner, size = (inner, size) if self.scope == "group" else (inner.sum(0), size.sum(0))
                assert (inner.abs() <= 1e-9 * size + 1e-9).all(), "the added part is not orthogonal to the anchor"

    def test_declared_freedom_from_conflict(self) -> None:
        if not self.conflict_free:
            pytest.skip("conflict_free is not declared")
        for vectors, gram in problems():
            if len(gram.loops) == 2:
                inner = torch.einsum("pn,pnd,pmd->pm", self.make().weights(gram), vectors, vectors)  # [P, n], <update, g_m>
                inner = inner if self.scope == "group" else inner.sum(0)
                assert (inner >= -1e-9 * (1 + gram.values.abs().max())).all(), "the update hurts one of the loops"

    def test_declared_sum_without_conflict(self) -> None:
        if not self.sum_without_conflict:
            pytest.skip("sum_without_conflict is not declared")
        for vectors, gram in problems():
            positive = vectors.abs()
            friendly = Gram(gram.loops, gram.groups, positive @ positive.mT, gram.scales)
            torch.testing.assert_close(self.make().weights(friendly), gram.scales.repeat(len(gram.groups), 1))

    def test_declared_symmetry(self) -> None:
        if not self.symmetric:
            pytest.skip("symmetric is not declared")
        for _, gram in problems():
            order = torch.arange(len(gram.loops)).flip(0)
            losses = None if gram.losses is None else gram.losses[order]
            turned = Gram(gram.loops[::-1], gram.groups, gram.values[:, order][:, :, order], gram.scales[order], losses)
            torch.testing.assert_close(self.make().weights(turned), self.make().weights(gram)[:, order])

    def test_declared_scope(self) -> None:
        for vectors, gram in problems():
            weights = self.make().weights(gram)
            if self.scope == "global":
                assert torch.equal(weights, weights[:1].expand_as(weights))
            if self.scope == "group":
                other = vectors.clone()
                other[1:] *= -2
                changed = self.make().weights(Gram(gram.loops, gram.groups, other @ other.mT, gram.scales))
                assert torch.equal(changed[0], weights[0]), "the first group's weights changed with another group"

    def combine(self, gradients: Tensor, scales: Tensor, seed: int = 0) -> Tensor:
        """[n, m] -> [m] by a fresh op; skips where the op has no ``combine``."""
        op = self.make()
        if not isinstance(op, ElementWise):
            pytest.skip("no combine(): the update is a weighted sum")
        return op.combine(gradients, scales, torch.Generator().manual_seed(seed))

    def test_combine_gives_a_finite_number_for_each(self) -> None:
        """Also where a loop, or every loop, has no gradient, and where one has its running mean alone, with scale 0."""
        for gradients, scales in element_wise_problems():
            for chosen in (gradients, gradients[:, :1], gradients * 0, torch.cat([gradients[:1] * 0, gradients[1:]])):
                update = self.combine(chosen, scales)
                assert update.shape == chosen.shape[1:], f"{list(chosen.shape)} must give {list(chosen.shape[1:])}"
                assert update.dtype == torch.float32
                assert update.isfinite().all()
            assert self.combine(gradients, scales * torch.arange(len(scales))).isfinite().all()

    def test_combine_of_one_loop_is_plain_training(self) -> None:
        """The loop's weight in the recipe counts: ``scales`` is to be multiplied by."""
        for gradients, _ in element_wise_problems():
            torch.testing.assert_close(self.combine(gradients[:1], torch.tensor([0.7], dtype=torch.float64)), 0.7 * gradients[0])

    def test_combine_sees_each_number_by_itself(self) -> None:
        """The engine calls it for one part of the parameters after another, and another sharding has other parts.

        Where an op draws, the means of many draws are compared.
        """
        for gradients, scales in element_wise_problems():
            order = torch.randperm(gradients.shape[1], generator=torch.Generator().manual_seed(1))

            def whole(seed: int, gradients: Tensor = gradients, scales: Tensor = scales) -> Tensor:
                return self.combine(gradients, scales, seed)

            def in_parts(seed: int, gradients: Tensor = gradients, scales: Tensor = scales) -> Tensor:
                op, generator = self.make(), torch.Generator().manual_seed(seed)
                assert isinstance(op, ElementWise)
                return torch.cat([op.combine(part, scales, generator) for part in gradients.split([1, 2, gradients.shape[1] - 3], 1)])

            def shuffled(seed: int, gradients: Tensor = gradients, scales: Tensor = scales, order: Tensor = order) -> Tensor:
                return self.combine(gradients[:, order], scales, seed)[order.argsort()]

            for name, other in (("parts of the gradients", in_parts), ("gradients in another order", shuffled)):
                assert equal_in_the_mean(whole, other), f"{name} give another update: each number must depend on its own column alone"

    def test_combine_draws_from_the_generator_only(self) -> None:
        """Every rank has a generator of the same state, and must make the same update."""
        for gradients, scales in element_wise_problems():
            torch.manual_seed(1)
            first = self.combine(gradients, scales, seed=5)
            torch.manual_seed(2)
            assert torch.equal(first, self.combine(gradients, scales, seed=5)), "two ranks would disagree: draw from the generator alone"

    def test_combine_changes_no_gradient(self) -> None:
        for gradients, scales in element_wise_problems():
            before = gradients.clone(), scales.clone()
            self.combine(gradients, scales)
            assert torch.equal(gradients, before[0])
            assert torch.equal(scales, before[1])


def gram_of(vectors: Tensor, scales: Tensor | None = None, losses: Tensor | None = None) -> Gram:
    """The Gram matrix of explicit gradients [P, n, d]."""
    P, n, _ = vectors.shape
    scales = torch.ones(n, dtype=torch.float64) if scales is None else scales
    return Gram(tuple(f"loop{i + 1}" for i in range(n)), tuple(f"group{p}" for p in range(P)), vectors @ vectors.mT, scales, losses)


def problems() -> Iterator[tuple[Tensor, Gram]]:
    """Explicit gradients [P, n, d] with their Gram matrix: agreeing, conflicting and unrelated loops of 2 or 3."""
    draw = torch.Generator().manual_seed(0)
    for n in (2, 3, 2, 3):
        for lean in (-1.5, -0.3, 0.0, 0.8):
            vectors = torch.randn(3, n, 7, dtype=torch.float64, generator=draw)
            vectors[:, 1:] += lean * vectors[:, :1]
            scales, losses = torch.rand(2, n, dtype=torch.float64, generator=draw) + 0.1
            yield vectors, gram_of(vectors, scales, losses)


def element_wise_problems() -> Iterator[tuple[Tensor, Tensor]]:
    """Gradients [n, 40] float32 of 2 and 3 loops, in part zero, with their scales [n] float64."""
    draw = torch.Generator().manual_seed(0)
    for n in (2, 3):
        gradients = torch.randn(n, 40, generator=draw)
        gradients[0, :4] = gradients[:, 2:3] = 0
        yield gradients, torch.rand(n, dtype=torch.float64, generator=draw) + 0.1


def equal_in_the_mean(first: Callable[[int], Tensor], second: Callable[[int], Tensor], draws: int = 200) -> bool:
    """Whether two functions of a seed give equal tensors; if the first depends on its seed, whether their means agree within 6 sigma."""
    if torch.equal(first(0), first(1)):
        return torch.allclose(first(0), second(0), rtol=1e-5, atol=1e-6)
    one, two = (torch.stack([function(seed) for seed in range(start, start + draws)]) for function, start in ((first, 0), (second, draws)))
    error = ((one.var(0) + two.var(0)) / draws).sqrt()
    return bool(((one.mean(0) - two.mean(0)).abs() <= 6 * error + 1e-5).all())
