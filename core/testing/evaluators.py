"""The contract kit of evaluators, on the tiny model."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import distributed

from core.contracts import Dataset, Evaluator, Item, Model, Picture, Region, ShowsPictures
from core.engine.evaluation import measured, scored
from core.testing._offers import check_offers
from core.testing.processes import in_two_processes
from core.testing.tiny_model import TinyModel, regions


class ListData:
    """A data set of given regions."""

    def __init__(self, items: list[Region]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Region:
        return self.items[index]


class EvaluatorKit:
    """Give ``make``: the evaluator on a data set of a few described regions.

    unbounded: metrics that are neither counts nor in 0..1, such as a cross entropy.
    """

    unbounded: frozenset[str] = frozenset()

    def make(self, data: Dataset) -> Evaluator:
        raise NotImplementedError

    def model(self) -> Model:
        return TinyModel()

    def items(self, model: Model | None = None, seed: int = 0, backwards: bool = False) -> tuple[Evaluator, list[Item]]:
        """The evaluator and all it measured, by unit."""
        torch.manual_seed(seed)
        evaluator, model = self.make(ListData(regions(5))), model or self.model()
        units = reversed(range(len(evaluator))) if backwards else range(len(evaluator))
        with model.computing(training=False):
            by_unit = {unit: measured(evaluator, model, unit) for unit in units}
        return evaluator, [item for unit in sorted(by_unit) for item in by_unit[unit]]

    def test_offers_are_declared_whole(self) -> None:
        check_offers(self.make(ListData(regions(5))), "evaluators")

    def test_metrics_are_finite_and_in_their_range(self) -> None:
        evaluator, items = self.items()
        assert isinstance(evaluator, Evaluator)
        assert items, "nothing was measured"
        assert [item for item in items if "bad" in item] == []
        metrics = scored(evaluator, items, evaluator.tally(items))
        assert set(metrics) > {"n_bad"}
        for name, value in metrics.items():
            assert math.isfinite(value), name
            if name not in self.unbounded and not name.startswith("n_"):
                assert 0 <= value <= 1, f"{name} is {value}: a share in 0..1, a count named n_..., or declared unbounded"

    def test_items_survive_json(self) -> None:
        _, items = self.items()
        assert json.loads(json.dumps(items, allow_nan=False)) == items
        assert all(isinstance(item["id"], str) for item in items)
        assert all(0 <= item["score"] <= 1 for item in items if "score" in item)

    def test_a_unit_depends_on_the_model_and_itself_alone(self) -> None:
        assert self.items(seed=1)[1] == self.items(seed=2, backwards=True)[1]

    def test_two_processes_measure_what_one_does(self) -> None:
        """Ranks share the units; the result must not depend on the number of ranks."""
        evaluator, expected = self.items()

        def work(rank: int) -> list[Item]:
            mine, model = self.make(ListData(regions(5))), self.model()
            with model.computing(training=False):
                own = [item for unit in range(rank, len(mine), 2) for item in measured(mine, model, unit)]
            parts: list[list[Item]] = [[], []]
            distributed.all_gather_object(parts, own)
            return sorted((item for part in parts for item in part), key=lambda item: item["unit"])

        for items in in_two_processes(work):
            assert items == expected
            assert scored(evaluator, items, evaluator.tally(items)) == scored(evaluator, expected, evaluator.tally(expected))

    def test_metrics_are_elementwise_functions_of_sums(self) -> None:
        """Two draws at once give what each gives alone: this is how intervals are computed."""
        evaluator, items = self.items()
        tally = evaluator.tally(items)
        for name, values in tally.items():
            assert np.shape(values) == (len(items),), f"tally {name}: one number for each item"
        counts = np.array([np.ones(len(items)), np.arange(len(items)) + 1.0])  # [2, n], how often each item is drawn
        both = evaluator.metrics({name: counts @ values for name, values in tally.items()})
        for draw, row in enumerate(counts):
            alone = evaluator.metrics({name: row[None] @ values for name, values in tally.items()})
            for name, value in alone.items():
                assert value[0] == pytest.approx(both[name][draw], nan_ok=True), name

    def test_pictures_have_the_shapes_of_the_contract(self) -> None:
        evaluator, items = self.items()
        if not isinstance(evaluator, ShowsPictures):
            return
        for item in items:
            picture: Picture = evaluator.picture(item)
            assert picture.image.dtype == np.uint8
            assert picture.image.ndim == 3
            for mask in (picture.truth, picture.predicted):
                assert mask is None or (mask.dtype == np.bool_ and mask.shape == picture.image.shape[:2])
            assert picture.score is None or 0 <= picture.score <= 1

    def test_the_model_is_left_as_it_was(self) -> None:
        model = self.model()
        before = [p.detach().clone() for named in model.trainable().values() for _, p in named]
        self.items(model)
        after = [p for named in model.trainable().values() for _, p in named]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert all(p.grad is None for p in after)
