from __future__ import annotations

import numpy as np
import pytest
from evaluator_fakes import ListData, Segmenter, region, square

from core.contracts import BadSample, Evaluator, UserError
from core.engine.evaluation import evaluate, measured
from core.engine.progress import Progress
from plugins.evaluators.refcoco import RefcocoEvaluator


def result(evaluator, model=None):
    return evaluate("refcoco", evaluator, model or Segmenter(), Progress(0, quiet=True))


def test_metrics_and_one_call_for_each_picture():
    items = [region(1, 20, "10"), region(1, 10, "8"), region(2, 10, "none"), region(3, 5, "5")]
    evaluator = RefcocoEvaluator(data=ListData(items, [[0, 1], [2], [3]]), max_new_tokens=7)
    assert isinstance(evaluator, Evaluator)
    model = Segmenter()
    found = result(evaluator, model)
    assert model.calls == [(1, ["10", "8"], 7), (2, ["none"], 7), (3, ["5"], 7)]
    assert found.metrics == pytest.approx(
        {
            "cIoU": (10 + 8 + 0 + 5) / (20 + 10 + 10 + 5),
            "gIoU": (0.5 + 0.8 + 0 + 1) / 4,
            "precision@0.5": 0.5,
            "precision@0.7": 0.5,
            "precision@0.9": 0.25,
            "no_seg_share": 0.25,
            "n_expressions": 4,
            "n_pictures": 3,
            "n_bad": 0,
        }
    )
    assert [(p.title, p.score, p.text) for p in found.pictures[::2]] == [("10", 0.5, "it is [SEG]"), ("none", 0.0, "no")]
    assert found.pictures[2].predicted is None
    assert np.array_equal(found.pictures[1].predicted, square(8))  # as it was generated, out of the kept item


def test_subsets_are_spread_over_the_pictures():
    items = [region(n, 4, "4") for n in range(20)]
    model = Segmenter()
    data = ListData(items, [[2 * n, 2 * n + 1] for n in range(10)])
    found = result(RefcocoEvaluator(data=data, max_samples=4, max_texts_per_image=1), model)
    assert [image for image, _, _ in model.calls] == [0, 6, 12, 18]
    assert found.metrics["n_expressions"] == 4


def test_without_groups_each_item_is_a_picture():
    model = Segmenter()
    assert result(RefcocoEvaluator(data=ListData([region(1, 4, "4"), region(1, 4, "3")])), model).metrics["n_pictures"] == 2
    assert len(model.calls) == 2


def test_bad_items_are_counted_and_named():
    items = [BadSample("unreadable image", "x7", "cut short"), region(1, 4, "4"), region(2, 4, None)]
    evaluator = RefcocoEvaluator(data=ListData(items, [[0, 1], [2]]))
    with pytest.warns(UserWarning, match=r"2 of 3 .*unreadable image, e.g. x7 \(cut short\).*no text, e.g. r2"):
        found = result(evaluator)
    assert (found.metrics["n_bad"], found.metrics["n_expressions"], found.metrics["n_pictures"]) == (2, 1, 1)
    assert [item["unit"] for item in measured(evaluator, Segmenter(), 1)] == [1]


def test_nothing_usable_is_an_error():
    with pytest.raises(UserError, match=r"nothing could be measured .*unreadable"):
        result(RefcocoEvaluator(data=ListData([BadSample("unreadable image", "x7")])))
    with pytest.raises(UserError, match="is empty"):
        result(RefcocoEvaluator(data=ListData([])))


@pytest.mark.parametrize("name", ["max_samples", "max_texts_per_image", "max_new_tokens"])
def test_ranges(name):
    with pytest.raises(ValueError, match=name):
        RefcocoEvaluator(data=ListData([]), **{name: 0})
