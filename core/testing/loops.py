"""The contract kit of loops, on the tiny model."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import pytest
import torch

from core.contracts import Loop, LossTerms
from core.testing.tiny_model import KitNoise, TinyModel, regions


class Student:
    """A teacher that is the student itself, without gradient."""

    def start(self, groups: object) -> None: ...

    def weights(self) -> AbstractContextManager[None]:
        return torch.no_grad()

    def update(self) -> None: ...

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state_dict(self, state: object) -> None: ...


class LoopKit:
    """Give ``make``, with caption lengths of a few tokens. ``reaches``: groups of the tiny model that must get gradient."""

    reaches: frozenset[str] = frozenset()

    def make(self) -> Loop:
        raise NotImplementedError

    def run(self, loop: Loop, model: TinyModel, chosen: slice = slice(None), seed: int = 0) -> LossTerms:
        """One call of the loop on some of the made-up regions."""
        batch = model.preparation.collate(regions()[chosen])
        torch.manual_seed(seed)
        return loop(model, Student() if "teacher" in loop.needs else None, batch, KitNoise())

    def test_needs_are_known(self) -> None:
        loop = self.make()
        assert isinstance(loop, Loop)
        assert isinstance(loop.needs, frozenset)
        assert loop.needs <= {"caption", "teacher"}

    def test_counts_announce_what_the_terms_sum_over(self) -> None:
        loop, model = self.make(), TinyModel()
        terms = self.run(loop, model).terms
        announced = loop.counts(model, model.preparation.collate(regions()), KitNoise())
        assert announced == {name: term.count for name, term in terms.items()}

    def test_terms_are_finite_scalars_and_metrics_are_sums_with_counts(self) -> None:
        result = self.run(self.make(), TinyModel())
        assert result.terms
        for name, term in result.terms.items():
            assert term.total.shape == (), name
            assert term.total.isfinite(), name
            assert term.weight >= 0, name
        for name, (total, count) in result.metrics.items():
            assert math.isfinite(total), name
            assert count >= 0, name

    def test_the_gradient_reaches_trained_weights(self) -> None:
        model = TinyModel()
        terms = self.run(self.make(), model).terms.values()
        torch.stack([term.weight * term.total for term in terms]).sum().backward()
        reached = {group for group, named in model.trainable().items() if any(p.grad is not None and p.grad.any() for _, p in named)}
        assert reached, "no trained weight has a gradient"
        assert self.reaches <= reached
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())

    def test_draws_from_the_noise_only(self) -> None:
        """A run is a function of its recipe and seed: nothing may come from a global generator."""
        first, again = (self.run(self.make(), TinyModel(), seed=seed).terms for seed in (1, 2))
        for name in first:
            assert torch.equal(first[name].total, again[name].total), name

    def test_a_batch_is_the_sum_of_its_samples(self) -> None:
        """Padding and neighbours change nothing: one process with batch 8 equals two with batch 4."""
        loop, model = self.make(), TinyModel()
        alone = [self.run(loop, model, slice(i, i + 1)).terms for i in range(len(regions()))]
        for name, term in self.run(loop, model).terms.items():
            assert term.count == sum(one[name].count for one in alone), name
            separate = sum(float(one[name].total.detach()) for one in alone)
            assert float(term.total.detach()) == pytest.approx(separate, rel=1e-4, abs=1e-5), name
