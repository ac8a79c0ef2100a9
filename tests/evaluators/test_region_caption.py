from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
from evaluator_fakes import ListData, Speller, region

from core.contracts import BadSample, Evaluator, UserError
from core.engine.evaluation import evaluate
from core.engine.progress import Progress
from plugins.evaluators import caption_metrics
from plugins.evaluators.items import normalised
from plugins.evaluators.region_caption import RegionCaption


def result(evaluator, model=None):
    return evaluate("caption", evaluator, model or Speller(), Progress(0, quiet=True))


def test_hand_computed_metrics():
    data = ListData([region(1, 4, "abc"), region(3, 4, "a"), region(2, 5, "abd")], [[0], [1, 2]])
    evaluator = RegionCaption(data=data, text_metrics=[])
    assert isinstance(evaluator, Evaluator)
    model = Speller(wrong={4})  # 'd' is never predicted
    found = result(evaluator, model)
    assert model.batches == [1, 2]  # the regions of one picture together
    # Tokens with the turn's end: 4 + 2 + 4, of which one is wrong. The padding must not count.
    log_sum = math.log(math.exp(2) + 8)
    ce = (9 * (log_sum - 2) + log_sum) / 10
    assert found.metrics == pytest.approx(
        {"caption_token_accuracy": 0.9, "caption_ce": ce, "exact_match": 1 / 3, "n_regions": 3, "n_bad": 0}, rel=1e-6
    )
    assert [(p.title, p.text, p.score) for p in found.pictures] == [("abc", "abc", 1.0), ("a", "abc", 1.0), ("abd", "abc", 0.75)]


def test_equal_masks_of_a_picture_are_one_region_with_several_references():
    data = ListData([region(1, 4, "abd"), region(1, 5, "a"), region(1, 4, "abc")], [[0, 1, 2]])
    evaluator = RegionCaption(data=data, batch_size=2)
    [first, second] = evaluator.measure(Speller(wrong={4}), 0)
    assert (first["references"], first["tokens"], first["right"], first["match"]) == (["abd", "abc"], 8, 7, True)
    assert (second["references"], second["tokens"], second["match"]) == (["a"], 2, False)
    assert len(RegionCaption(data=data, max_texts_per_image=1).measure(Speller(), 0)) == 1


VOCABULARIES = {"colour": ["red", "blue", "Light blue"], "shape": ["circle", "square"]}


def right_words(said, references, listed=VOCABULARIES):
    items = [
        {"text": text, "references": each, "right": 1, "tokens": 1, "ce": 0.0, "match": False}
        for text, each in zip(said, references, strict=True)
    ]
    evaluator = RegionCaption(data=ListData([]), text_metrics=[], words=listed)
    sums = {name: values.sum(keepdims=True) for name, values in evaluator.tally(items).items()}
    return {name: value.item() for name, value in evaluator.metrics(sums).items() if name.startswith("words/")}


def test_words_of_each_vocabulary_are_right_where_a_reference_says_the_same():
    said = ["a red circle.", "a light blue square", "a blue square", "a red and blue circle", "a thing", "Red, square"]
    true = [["a red square"], ["the light blue square"], ["a light  blue one"], ["a red circle"], ["a thing"], ["a circle", "a RED square"]]
    # colours: right, right, blue is not light blue, two are wrong where one is meant, nothing was to be said, right by the second reference
    assert right_words(said, true) == {"words/colour": 3 / 5, "words/shape": 3 / 4}
    assert right_words(["nothing"], [["a red circle"]]) == {"words/colour": 0, "words/shape": 0}


def test_a_vocabulary_of_which_no_reference_speaks_is_told_and_left_out():
    with pytest.warns(UserWarning, match=r"words.shape: no caption of the data set says one of its words"):
        assert right_words(["red"], [["a red thing"]]) == {"words/colour": 1}


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        ({"colour": []}, r"words.colour lists no word"),
        ({"colour": ["red", " Red "]}, r"words.colour lists ' Red ' twice"),
        ({"colour": ["red", "--"]}, r"words.colour: '--' has no word in it"),
    ],
)
def test_vocabularies_are_checked(listed, told):
    with pytest.raises(ValueError, match=told):
        RegionCaption(data=ListData([]), words=listed)


def test_the_shipped_recipes_list_the_words_of_their_world():
    from pathlib import Path

    from core.recipe import load
    from plugins.datasets.shapes.grammar import COLOURS, POSITIONS, SHAPES, SIZES

    whole = {"colour": [*COLOURS], "size": [*SIZES], "shape": [*SHAPES], "position": [*POSITIONS]}
    for name in ("dual_loop_tiny", "shapes_base"):
        recipe = load(Path(__file__).parents[2] / "recipes" / f"{name}.yaml")
        assert recipe.values["evaluate"]["caption"]["words"] == whole


def test_subset_is_spread_and_lengths_cut():
    data = ListData([region(n, 4, "abcdefg") for n in range(9)])
    found = result(RegionCaption(data=data, max_samples=3, caption_length=2))
    assert (found.metrics["n_regions"], found.metrics["exact_match"]) == (3, 0)
    assert [p.image[0, 0, 0] for p in found.pictures] == [0, 4, 8]
    [item] = RegionCaption(data=data, max_new_tokens=2).measure(Speller(says="abc"), 0)
    assert (item["text"], item["tokens"]) == ("ab", 8)


def test_bad_items_are_counted_and_named():
    data = ListData([BadSample("no picture", "x1"), region(1, 0, "abc"), region(2, 4, None), region(3, 4, "abc")])
    with pytest.warns(UserWarning, match=r"3 of 4 .*no picture.*empty mask.*no text"):
        metrics = result(RegionCaption(data=data)).metrics
    assert (metrics["n_bad"], metrics["n_regions"], metrics["exact_match"]) == (3, 1, 1)


def test_nothing_usable_is_an_error():
    with pytest.raises(UserError, match=r"nothing could be measured .*no text"):
        result(RegionCaption(data=ListData([region(1, 4, None)])))


def test_captions_are_compared_without_case_and_spacing():
    assert normalised(" A  Red\ncircle ") == "a red circle"


@pytest.mark.parametrize("name", ["max_samples", "max_texts_per_image", "max_new_tokens", "caption_length", "batch_size"])
def test_ranges(name):
    with pytest.raises(ValueError, match=name):
        RegionCaption(data=ListData([]), **{name: 0})


SAID = ["a red circle on the left", "the dog", "a man's hat", "red"]
TRUE = [["a red circle left of it", "the circle"], ["a brown dog"], ["the hat of a man", "a man's hat"], ["a blue square on the right"]]


def test_the_metrics_are_the_coco_codes_own():
    scorers = pytest.importorskip("pycocoevalcap.bleu.bleu_scorer"), pytest.importorskip("pycocoevalcap.cider.cider_scorer")
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge")
    bleu, cider = scorers[0].BleuScorer(), scorers[1].CiderScorer()
    for text, references in zip(SAID, TRUE, strict=True):
        for scorer in (bleu, cider):
            scorer += (caption_metrics.words(text), [caption_metrics.words(reference) for reference in references])
    sums = {k: v.sum(keepdims=True) for k, v in caption_metrics.tally(SAID, TRUE, ["CIDEr", "BLEU", "ROUGE-L"]).items()}
    found = {name: value.item() for name, value in caption_metrics.metrics(sums, np.array([4.0])).items()}
    for order, value in enumerate(bleu.compute_score(option="closest")[0], start=1):
        assert found[f"BLEU-{order}"] == pytest.approx(value)
    assert found["CIDEr"] == pytest.approx(cider.compute_score()[0])
    given = {n: [caption_metrics.words(t) for t in each] for n, each in enumerate(TRUE)}
    said = {n: [caption_metrics.words(text)] for n, text in enumerate(SAID)}
    assert found["ROUGE-L"] == pytest.approx(rouge.Rouge().compute_score(given, said)[0])
    assert found["BLEU-1"] > 0.3  # these are no zeros


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man's red t-shirt, hanging.", "a man 's red t-shirt hanging"),
        ("It doesn't; they’re 3.5 m away (left)!", "it does n't they 're 3.5 m away -lrb- left -rrb-"),
        ("cannot see white/blue", "can not see white/blue"),
        ('a "no parking" sign - 10:30 a.m.', "a no parking sign 10:30 a.m."),
        ("café & bar: 50% off", "café & bar 50 % off"),
        ("", ""),
    ],
)
def test_words_are_those_of_the_coco_codes_tokenizer(text, expected):
    """What the Java tokenizer gave for these."""
    assert caption_metrics.words(text) == expected


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="METEOR runs in Java"):
        RegionCaption(data=ListData([]), text_metrics=["METEOR"])
    monkeypatch.setitem(__import__("sys").modules, "pycocoevalcap.cider.cider_scorer", None)
    with pytest.raises(UserError, match=r'CIDEr, BLEU, ROUGE-L need the package pycocoevalcap.*pip install "dualloop\[caption\]"'):
        RegionCaption(data=ListData([]))
    RegionCaption(data=ListData([]), text_metrics=[])


@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs Java")
def test_meteor():
    data = ListData([region(1, 4, "abc"), region(2, 4, "abd")])
    assert "METEOR" not in result(RegionCaption(data=data)).metrics
    assert 0 < result(RegionCaption(data=data, text_metrics=["METEOR"])).metrics["METEOR"] < 1
