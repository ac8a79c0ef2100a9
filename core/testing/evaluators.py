"""The contract kit of evaluators, on the tiny model."""

from __future__ import annotations

import math

import numpy as np
import torch

from core.contracts import Dataset, Evaluation, Evaluator, Model, Region
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

    def result(self, model: Model | None = None, seed: int = 0) -> tuple[Evaluation, list[tuple[int, int]]]:
        """The evaluation, and the calls of ``progress``."""
        calls: list[tuple[int, int]] = []
        torch.manual_seed(seed)
        with torch.no_grad():
            found = self.make(ListData(regions(5))).evaluate(model or self.model(), lambda done, total: calls.append((done, total)))
        return found, calls

    def test_metrics_are_finite_and_in_their_range(self) -> None:
        assert isinstance(self.make(ListData(regions(5))), Evaluator)
        result, _ = self.result()
        assert result.metrics
        for name, value in result.metrics.items():
            assert math.isfinite(value), name
            if name not in self.unbounded and not name.startswith("n_"):
                assert 0 <= value <= 1, f"{name} is {value}: a share in 0..1, a count named n_..., or declared unbounded"

    def test_progress_grows_to_the_total(self) -> None:
        _, calls = self.result()
        assert calls, "progress was never called"
        assert [done for done, _ in calls] == sorted(done for done, _ in calls)
        assert calls[-1][0] == calls[-1][1]

    def test_gives_the_same_again(self) -> None:
        assert self.result(seed=1)[0].metrics == self.result(seed=2)[0].metrics

    def test_pictures_have_the_shapes_of_the_contract(self) -> None:
        for picture in self.result()[0].pictures:
            assert picture.image.dtype == np.uint8
            assert picture.image.ndim == 3
            for mask in (picture.truth, picture.predicted):
                assert mask is None or (mask.dtype == np.bool_ and mask.shape == picture.image.shape[:2])
            assert picture.score is None or 0 <= picture.score <= 1

    def test_the_model_is_left_as_it_was(self) -> None:
        model = self.model()
        before = [p.detach().clone() for named in model.trainable().values() for _, p in named]
        self.result(model)
        after = [p for named in model.trainable().values() for _, p in named]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert all(p.grad is None for p in after)
