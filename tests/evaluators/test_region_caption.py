from __future__ import annotations

import math

import pytest
from evaluator_fakes import ListData, Speller, region

from core.contracts import BadSample, Evaluator, UserError
from plugins.evaluators.region_caption import RegionCaption, normalised


def ignore(done, total):
    pass


def test_hand_computed_metrics():
    data = ListData([region(1, 4, "abc"), region(3, 4, "a"), region(2, 4, "abd")])
    evaluator = RegionCaption(data=data, batch_size=2)
    assert isinstance(evaluator, Evaluator)
    model, seen = Speller(wrong={4}), []  # 'd' is never predicted
    result = evaluator.evaluate(model, lambda done, total: seen.append((done, total)))
    assert model.batches == [2, 1]
    assert seen == [(2, 3), (3, 3)]
    # Tokens with the turn's end: 4 + 2 + 4, of which one is wrong. The padding must not count.
    log_sum = math.log(math.exp(2) + 8)
    ce = (9 * (log_sum - 2) + log_sum) / 10
    assert result.metrics == pytest.approx(
        {"caption_token_accuracy": 0.9, "caption_ce": ce, "exact_match": 1 / 3, "n_regions": 3, "n_bad": 0}
    )
    assert [(p.title, p.text, p.score) for p in result.pictures] == [("abc", "abc", 1.0), ("a", "abc", 1.0), ("abd", "abc", 0.75)]


def test_subset_is_spread_and_length_cuts():
    model = Speller()
    data = ListData([region(n, 4, "abcdefg") for n in range(9)])
    result = RegionCaption(data=data, max_samples=3, caption_length=2, pictures=1).evaluate(model, ignore)
    assert result.metrics["n_regions"] == 3
    assert result.metrics["exact_match"] == 0
    assert [p.image[0, 0, 0] for p in result.pictures] == [0]


def test_bad_items_are_counted_and_named():
    data = ListData([BadSample("no picture", "x1"), region(1, 0, "abc"), region(2, 4, None), region(3, 4, "abc")])
    with pytest.warns(UserWarning, match=r"3 of 4 .*no picture.*empty mask.*no caption"):
        metrics = RegionCaption(data=data, batch_size=2).evaluate(Speller(), ignore).metrics
    assert (metrics["n_bad"], metrics["n_regions"], metrics["exact_match"]) == (3, 1, 1)


def test_nothing_usable_is_an_error():
    with pytest.raises(UserError, match=r"no usable captioned region .*no caption"):
        RegionCaption(data=ListData([region(1, 4, None)])).evaluate(Speller(), ignore)


def test_captions_are_compared_without_case_and_spacing():
    assert normalised(" A  Red\ncircle ") == "a red circle"


@pytest.mark.parametrize("name", ["max_samples", "caption_length", "batch_size"])
def test_ranges(name):
    with pytest.raises(ValueError, match=name):
        RegionCaption(data=ListData([]), **{name: 0})
