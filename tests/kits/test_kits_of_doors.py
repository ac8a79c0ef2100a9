"""The kits on what a component may bring beyond its contract: sound ones pass, and each promise that is broken is noticed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.contracts import Gram, LossTerm, LossTerms, RegionBatch, Sample, UserError
from core.testing import GradientOpKit, LoopKit, SamplerKit, ScheduleKit, TrackerKit
from plugins.trackers.jsonl import Jsonl

Change = Callable[..., Any]


def holding(kit: type, make: Callable[..., Any], **declared: Any) -> Any:
    """A test class of the kit, of which a check is called by hand."""
    return type("Kit", (kit,), {"make": lambda self, *given: make(*given)} | declared)()


def combine(gradients: Tensor, scales: Tensor, generator: torch.Generator) -> Tensor:
    """The numbers whose sign agrees with the sum's are summed."""
    scaled = gradients * scales.to(gradients)[:, None]
    return torch.where(scaled * scaled.sum(0) >= 0, scaled, 0).sum(0)


def drawn(gradients: Tensor, scales: Tensor, generator: torch.Generator) -> Tensor:
    """Each number from one loop alone, that or another."""
    scaled = gradients * scales.to(gradients)[:, None]
    first = torch.rand(scaled.shape[1], generator=generator) < 0.5
    return torch.where(first, scaled[0], scaled[-1])


class Mixed:
    """A gradient op with a ``combine`` of choice."""

    def __init__(self, mix: Change) -> None:
        self.mix = mix

    def weights(self, gram: Gram) -> Tensor:
        return gram.scales.repeat(len(gram.groups), 1)

    def combine(self, gradients: Tensor, scales: Tensor, generator: torch.Generator) -> Tensor:
        return self.mix(gradients, scales, generator)


class TestAgreeing(GradientOpKit):
    sum_without_conflict = True

    def make(self) -> Mixed:
        return Mixed(combine)


class TestDrawn(GradientOpKit):
    def make(self) -> Mixed:
        return Mixed(drawn)


@pytest.mark.parametrize(
    ("mix", "check"),
    [
        (lambda g, s, r: combine(g, s, r)[None], "gives_a_finite_number_for_each"),
        (lambda g, s, r: combine(g, s, r).double(), "gives_a_finite_number_for_each"),
        (lambda g, s, r: combine(g, s, r) / g[0], "gives_a_finite_number_for_each"),
        (lambda g, s, r: combine(g, s * 0 + 1, r), "of_one_loop_is_plain_training"),
        (lambda g, s, r: combine(g, s, r) / g.abs().max(), "sees_each_number_by_itself"),
        (lambda g, s, r: combine(g, s, r).cumsum(0), "sees_each_number_by_itself"),
        (lambda g, s, r: drawn(g, s, r) - drawn(g, s, r).mean(), "sees_each_number_by_itself"),
        (lambda g, s, r: drawn(g, s, None), "draws_from_the_generator_only"),
        (lambda g, s, r: combine(g.mul_(2), s, r), "changes_no_gradient"),
        (lambda g, s, r: combine(g, s.mul_(2), r), "changes_no_gradient"),
    ],
)
def test_element_wise_ops(mix: Change, check: str) -> None:
    with pytest.raises(AssertionError):
        getattr(holding(GradientOpKit, lambda: Mixed(mix)), f"test_combine_{check}")()


class Contrast:
    """Regions are told apart by a head of the loop's own; a variable part of it is broken by the tests."""

    needs: frozenset[str] = frozenset()
    within_batch = True
    empty_masks = True

    def __init__(self) -> None:
        self.heads: dict[str, Any] = {"all": [nn.Linear(8, 4)]}

    def counts(self, model: Any, batch: RegionBatch, noise: Any) -> dict[str, int]:
        return {"contrast": len(batch)}

    def features(self, model: Any, batch: RegionBatch) -> Tensor:
        start = model.tokenize([""] * len(batch), 4)
        return self.heads["all"][0](model.caption_states(model.encode(batch), batch.view1, batch.cells, start)[:, 0])

    def __call__(self, model: Any, teacher: Any, batch: RegionBatch, noise: Any) -> LossTerms:
        made = F.normalize(self.features(model, batch), dim=1)
        total = F.cross_entropy(made @ made.mT, torch.arange(len(batch)), reduction="sum")
        return LossTerms({"contrast": LossTerm(total, len(batch))})

    def samples(self, model: Any, teacher: Any, batch: RegionBatch, noise: Any) -> list[Sample]:
        self.features(model, batch)
        images = batch.sam_pictures[batch.view1].permute(0, 2, 3, 1).numpy()
        masks = batch.mask1.repeat_interleave(4, 1).repeat_interleave(4, 2).numpy()
        return [Sample("", images[i], masks[i], id=name, texts={"name": name}) for i, name in enumerate(batch.ids)]


class TestContrast(LoopKit):
    reaches = frozenset({"projector", "language"})

    def make(self) -> Contrast:
        return Contrast()


def with_samples(change: Change) -> type:
    def samples(self: Contrast, model: Any, teacher: Any, batch: RegionBatch, noise: Any) -> list[Sample]:
        return change(Contrast.samples(self, model, teacher, batch, noise), model)

    return type("Changed", (Contrast,), {"samples": samples})


def trained(shown: list[Sample], model: Any) -> list[Sample]:
    next(model.parameters()).data.add_(1)
    return shown


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda shown, model: shown[1:], "one sample for each region"),
        (lambda shown, model: shown[::-1], "one sample for each region"),
        (lambda shown, model: [replace(one, texts={"a": 3}) for one in shown], "texts by name"),
        (lambda shown, model: [replace(one, texts={}) for one in shown], "neither a text nor a mask"),
        (lambda shown, model: [replace(one, predicted=np.zeros((8, 8), bool)) for one in shown], "a mask fits its picture"),
        (lambda shown, model: [replace(one, texts={"a": str(torch.rand(()))}) for one in shown], "global generator"),
        (trained, "changed weights"),
    ],
)
def test_samples_of_a_loop(change: Change, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        holding(LoopKit, with_samples(change)).test_samples_show_each_region_and_change_nothing()


def test_a_loop_that_does_not_say_that_it_compares_regions_is_told_how() -> None:
    silent = type("Silent", (Contrast,), {"within_batch": False})
    with pytest.raises(pytest.fail.Exception, match=r"term 'contrast' is \S+, and not 0: .* declares within_batch = True"):
        holding(LoopKit, silent).test_a_batch_is_the_sum_of_its_samples()


def test_the_order_of_regions_counts_even_within_a_batch() -> None:
    def first_alone(self: Contrast, model: Any, batch: RegionBatch) -> Tensor:
        return (
            Contrast.features(self, model, batch) * torch.tensor([5.0] + [1.0] * (len(batch) - 1))[:, None]
            + torch.arange(4.0)[: len(batch), None]
        )

    ordered = type("Ordered", (Contrast,), {"features": first_alone})
    with pytest.raises(pytest.fail.Exception, match="the order of a batch's regions"):
        holding(LoopKit, ordered).test_a_batch_is_the_sum_of_its_samples()


def test_own_weights_that_nothing_reaches_are_named() -> None:
    def unused() -> Contrast:
        made = Contrast()
        made.heads["spare"] = nn.Linear(2, 2)
        return made

    def half() -> Contrast:
        made = Contrast()
        made.heads["spare"] = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
        return made

    with pytest.raises(AssertionError, match=r"no gradient reaches the loop's own heads\.spare\.weight"):
        holding(LoopKit, unused).test_the_gradient_reaches_trained_weights()
    with pytest.raises(UserError, match=r"heads\.spare.* bfloat16"):
        holding(LoopKit, half).test_the_gradient_reaches_trained_weights()


def test_empty_masks_that_give_no_number_are_noticed() -> None:
    def by_area(self: Contrast, model: Any, batch: RegionBatch) -> Tensor:
        return Contrast.features(self, model, batch) / batch.mask1.flatten(1).sum(1, keepdim=True)

    for empty in (1, 3):
        with pytest.raises(AssertionError):
            holding(LoopKit, type("Divides", (Contrast,), {"features": by_area})).test_declared_empty_masks(empty)


class Nucleus:
    """Straight through the smallest set of tokens that holds ``p`` of the probability."""

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, states: Tensor, head: Any, embedding: Tensor, generators: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        chance = F.linear(states, *head).softmax(-1)
        ordered, order = chance.sort(-1, descending=True)
        kept = torch.zeros_like(chance, dtype=torch.bool).scatter(-1, order, ordered.cumsum(-1) - ordered < self.p)
        soft = torch.where(kept, chance, 0) / (chance * kept).sum(-1, keepdim=True)
        return soft @ embedding, {"topk_mass": (chance * kept).sum(-1).detach(), "ids": chance.argmax(-1)}


class TestNucleus(SamplerKit):
    may_be_certain = True

    def make(self) -> Nucleus:
        return Nucleus(0.6)


def test_a_certain_token_is_told_what_to_declare() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"tokens \(row, place\) \[\(\d, \d\).* declare may_be_certain = True"):
        holding(SamplerKit, lambda: Nucleus(0.6)).test_the_gradient_reaches_the_states_of_every_token()
    with pytest.raises(pytest.fail.Exception, match=r"teaches the description nothing there$"):
        holding(SamplerKit, lambda: Nucleus(1e-6), may_be_certain=True).test_the_gradient_reaches_the_states_of_every_token()


@pytest.mark.parametrize("names", [("a", "b"), ["a", "b"], {"a", "b"}, frozenset({"a", "b"})])
def test_names_of_a_schedule_may_be_any_collection(names: Any) -> None:
    turns = type("Turns", (), {"loops": lambda self, update: ["a"] if update % 2 else ["a", "b"]})
    holding(ScheduleKit, turns, names=names).test_every_update_has_a_loop_and_none_twice()
    with pytest.raises(AssertionError, match=r"update 0 asks for \['a', 'b'\]"):
        holding(ScheduleKit, turns, names=type(names)(["a"])).test_every_update_has_a_loop_and_none_twice()


def test_training_samples_reach_a_tracker_and_its_failure_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, str, list[str]]] = []
    keeps = {"training_samples": lambda self, update, name, samples: seen.append((update, name, [one.id for one in samples]))}
    kit = holding(TrackerKit, type("Keeps", (Jsonl,), keeps))
    kit.finished(TrackerKit.run.__wrapped__(kit, tmp_path, monkeypatch), 1)
    assert seen == [(2, "samples/loop1", ["one", "two"])]
    (tmp_path / "again").mkdir()
    fails = holding(TrackerKit, type("Fails", (Jsonl,), {"training_samples": lambda self, *given: given[2][0].texts["absent"]}))
    with pytest.raises(pytest.fail.Exception, match=r"training_samples.*KeyError"):
        fails.finished(TrackerKit.run.__wrapped__(fails, tmp_path / "again", monkeypatch), 1)
