from __future__ import annotations

import pytest
from evaluator_fakes import ListData, Segmenter, region

from core.contracts import BadSample, Evaluator, UserError
from plugins.evaluators.refcoco import RefcocoEvaluator


def ignore(done, total):
    pass


def test_metrics_and_one_call_for_each_picture():
    items = [region(1, 20, "10"), region(1, 10, "8"), region(2, 10, "none"), region(3, 5, "5")]
    evaluator = RefcocoEvaluator(data=ListData(items, [[0, 1], [2], [3]]), max_new_tokens=7)
    assert isinstance(evaluator, Evaluator)
    model, seen = Segmenter(), []
    result = evaluator.evaluate(model, lambda done, total: seen.append((done, total)))
    assert model.calls == [(1, ["10", "8"], 7), (2, ["none"], 7), (3, ["5"], 7)]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert result.metrics == pytest.approx(
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
    shown = [(p.title, p.score, p.text) for p in result.pictures]
    assert shown == [("10", 0.5, "it is [SEG]"), ("none", 0.0, "no"), ("5", 1.0, "it is [SEG]")]
    assert result.pictures[1].predicted is None


def test_subsets_are_spread_over_the_pictures():
    items = [region(n, 4, "4") for n in range(20)]
    model = Segmenter()
    data = ListData(items, [[2 * n, 2 * n + 1] for n in range(10)])
    result = RefcocoEvaluator(data=data, max_samples=4, max_texts_per_image=1, pictures=2).evaluate(model, ignore)
    assert [image for image, _, _ in model.calls] == [0, 6, 12, 18]
    assert result.metrics["n_expressions"] == 4
    assert [p.image[0, 0, 0] for p in result.pictures] == [0, 18]


def test_without_groups_each_item_is_a_picture():
    model = Segmenter()
    assert RefcocoEvaluator(data=ListData([region(1, 4, "4"), region(1, 4, "3")])).evaluate(model, ignore).metrics["n_pictures"] == 2
    assert len(model.calls) == 2


def test_bad_items_are_counted_and_named():
    items = [BadSample("unreadable image", "x7", "cut short"), region(1, 4, "4"), region(2, 4, None)]
    with pytest.warns(UserWarning, match=r"2 of 3 .* unreadable image, e.g. x7.*no phrase"):
        result = RefcocoEvaluator(data=ListData(items, [[0, 1], [2]])).evaluate(Segmenter(), ignore)
    assert (result.metrics["n_bad"], result.metrics["n_expressions"], result.metrics["n_pictures"]) == (2, 1, 1)


def test_nothing_usable_is_an_error():
    with pytest.raises(UserError, match=r"no usable expression .*unreadable"):
        RefcocoEvaluator(data=ListData([BadSample("unreadable image", "x7")])).evaluate(Segmenter(), ignore)
    with pytest.raises(UserError, match="it is empty"):
        RefcocoEvaluator(data=ListData([])).evaluate(Segmenter(), ignore)


@pytest.mark.parametrize("name", ["max_samples", "max_texts_per_image", "max_new_tokens"])
def test_ranges(name):
    with pytest.raises(ValueError, match=name):
        RefcocoEvaluator(data=ListData([]), **{name: 0})
