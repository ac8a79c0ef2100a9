"""The contract kit of loops, on the tiny model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.contracts import Loop, LossTerm, LossTerms, Region, Sample, ShowsSamples, TakesEmptyMasks, WithinBatch
from core.engine.own_weights import own_weights
from core.testing._offers import check_offers
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
    """Give ``make``, with caption lengths of a few tokens. ``reaches``: groups of the tiny model that must get gradient.

    What a loop says of itself is checked too: ``within_batch``, ``empty_masks``, ``samples``, and that weights of its own are trained.
    """

    reaches: frozenset[str] = frozenset()

    def make(self) -> Loop:
        raise NotImplementedError

    def made(self) -> Loop:
        """A loop whose own weights, if it has some, are always the same, as in a run of one seed."""
        torch.manual_seed(0)
        return self.make()

    def run(self, loop: Loop, model: TinyModel, chosen: Sequence[Region] | slice = slice(None), seed: int = 0) -> LossTerms:
        """One call of the loop on some of the made-up regions, or on others."""
        batch = model.preparation.collate(regions()[chosen] if isinstance(chosen, slice) else chosen)
        torch.manual_seed(seed)
        return loop(model, self.teacher(loop), batch, KitNoise())

    def teacher(self, loop: Loop) -> Student | None:
        return Student() if "teacher" in loop.needs else None

    def test_offers_are_declared_whole(self) -> None:
        check_offers(self.made(), "loops")

    def test_needs_are_known(self) -> None:
        loop = self.made()
        assert isinstance(loop, Loop)
        assert isinstance(loop.needs, frozenset)
        assert loop.needs <= {"caption", "teacher"}

    def test_counts_announce_what_the_terms_sum_over(self) -> None:
        loop, model = self.made(), TinyModel()
        terms = self.run(loop, model).terms
        announced = loop.counts(model, model.preparation.collate(regions()), KitNoise())
        assert announced == {name: term.count for name, term in terms.items()}

    def test_terms_are_finite_scalars_and_metrics_are_sums_with_counts(self) -> None:
        check_terms(self.run(self.made(), TinyModel()))

    def test_the_gradient_reaches_trained_weights(self) -> None:
        """The model's; and each weight that the loop itself brings, which the engine trains with the others."""
        loop, model = self.made(), TinyModel()
        whole(self.run(loop, model).terms).backward()
        reached = {group for group, named in model.trainable().items() if any(p.grad is not None and p.grad.any() for _, p in named)}
        assert reached, "no trained weight has a gradient"
        assert self.reaches <= reached
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        for name, weight in own_weights(loop):
            assert weight.grad is not None, f"no gradient reaches the loop's own {name}: use it, or freeze it with requires_grad_(False)"
            assert weight.grad.any(), f"no gradient reaches the loop's own {name}: it is zero everywhere"
            assert weight.grad.isfinite().all(), f"the gradient of the loop's own {name} is not finite"

    def test_draws_from_the_noise_only(self) -> None:
        """A run is a function of its recipe and seed: nothing may come from a global generator."""
        first, again = (self.run(self.made(), TinyModel(), seed=seed).terms for seed in (1, 2))
        for name in first:
            assert torch.equal(first[name].total, again[name].total), name

    def test_a_batch_is_the_sum_of_its_samples(self) -> None:
        """Padding and neighbours change nothing: one process with batch 8 equals two with batch 4.

        Of a loop that declares ``within_batch``: the order of the regions changes nothing.
        """
        loop, model = self.made(), TinyModel()
        together = self.run(loop, model).terms
        if isinstance(loop, WithinBatch) and loop.within_batch:
            parts, words = [self.run(loop, model, regions()[::-1]).terms], "the order of a batch's regions changes it"
        else:
            parts = [self.run(loop, model, slice(i, i + 1)).terms for i in range(len(regions()))]
            words = "neighbours change a region's part; a loop that compares the regions of a batch declares within_batch = True"
        for name, term in together.items():
            assert term.count == sum(one[name].count for one in parts), name
            separate = sum(float(one[name].total.detach()) for one in parts)
            total = float(term.total.detach())
            if total != pytest.approx(separate, rel=1e-4, abs=1e-5):
                pytest.fail(f"term {name!r} is {total:g}, and not {separate:g}: {words}", pytrace=False)

    @pytest.mark.parametrize("empty", [1, 3])
    def test_declared_empty_masks(self, empty: int) -> None:
        """``TakesEmptyMasks``: the phrase of a region has no target; of one region in a batch, or of all."""
        loop, model = self.made(), TinyModel()
        if not (isinstance(loop, TakesEmptyMasks) and loop.empty_masks):
            pytest.skip("empty_masks is not declared")
        chosen = [replace(one, mask=one.mask & (i >= empty), mask2=None, image2=None) for i, one in enumerate(regions())]
        result = self.run(loop, model, chosen)
        check_terms(result)
        announced = loop.counts(model, model.preparation.collate(chosen), KitNoise())
        assert announced == {name: term.count for name, term in result.terms.items()}
        whole(result.terms).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())

    def test_samples_show_each_region_and_change_nothing(self) -> None:
        """``ShowsSamples``: a sample for each region, in the order of the batch; training goes on as if none had been shown."""
        loop, model = self.made(), TinyModel()
        if not isinstance(loop, ShowsSamples):
            pytest.skip("no samples()")
        model.train()
        batch = model.preparation.collate(regions())
        before = {name: p.detach().clone() for name, p in (*model.named_parameters(), *own_weights(loop))}
        shown = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            state = torch.random.get_rng_state()
            with model.computing(training=False):
                shown.append(loop.samples(model, self.teacher(loop), batch, KitNoise()))
            assert torch.equal(state, torch.random.get_rng_state()), "samples() draws from the global generator: use the noise"
        after = dict((*model.named_parameters(), *own_weights(loop)))
        assert [sample.id for sample in shown[0]] == batch.ids, "one sample for each region, in their order"
        for sample, again in zip(*shown, strict=True):
            check_sample(sample)
            assert dict(sample.texts) == dict(again.texts), sample.id
        assert all(torch.equal(before[name], after[name]) for name in before), "samples() changed weights"
        assert all(p.grad is None for p in after.values()), "samples() left gradients"
        assert all(module.training for module in model.modules()), "samples() left the model in another mode"


def whole(terms: dict[str, LossTerm]) -> torch.Tensor:
    """The loss: the weighted sum of the terms."""
    return torch.stack([term.weight * term.total for term in terms.values()]).sum()


def check_terms(result: LossTerms) -> None:
    assert result.terms
    for name, term in result.terms.items():
        assert term.total.shape == (), name
        assert term.total.isfinite(), name
        assert term.weight >= 0, name
    for name, (total, count) in result.metrics.items():
        assert math.isfinite(total), name
        assert count >= 0, name


def check_sample(sample: Sample) -> None:
    assert isinstance(sample, Sample)
    assert all(isinstance(name, str) and isinstance(text, str) for name, text in sample.texts.items()), f"{sample.id}: texts by name"
    assert sample.texts or sample.predicted is not None, f"{sample.id} shows neither a text nor a mask"
    assert sample.image.dtype == np.uint8
    assert sample.image.ndim == 3
    assert sample.image.shape[2] == 3
    for mask in (sample.truth, sample.predicted):
        assert mask is None or (mask.dtype == np.bool_ and mask.shape == sample.image.shape[:2]), f"{sample.id}: a mask fits its picture"
    assert sample.score is None or 0 <= sample.score <= 1
