"""Closing the loops, on a model whose words and masks are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from evaluator_fakes import ListData, Preparation, Speller, region, square

from core.contracts import BadSample, Evaluator, Prediction, Region, UserError
from core.engine.evaluation import evaluate, measured, scored
from core.engine.progress import Progress
from core.evaluation.intervals import draw, interval
from core.testing import TinyModel
from core.testing.tiny_model import regions
from plugins.evaluators.closure import Closure


class Halves(Preparation):
    """Masks of 2 x 2, whose first cell is real where the mask has at least 8 of its 64 pixels."""

    def collate(self, samples):
        batch = super().collate(samples)
        batch.cells = [torch.tensor([[True, sample.mask.sum() >= 8], [False, False]]) for sample in samples]
        batch.mask1 = torch.stack([torch.tensor([[True, True], [False, False]]) for _ in samples])
        return batch


class Cycler(Speller):
    """Describes a region of two cells as "ab" and one of a single cell as "c", one without any as nothing; "ab" finds 16 pixels, "c" none,
    and anything else gets no [SEG]. A given caption finds as many of the four cells as it has letters; beyond four, nothing."""

    def __init__(self):
        super().__init__()
        self.preparation, self.asked, self.drawn = Halves(), [], []

    def generate(self, vision, view, cells, length):
        return self.tokenize([{0: "", 1: "c", 2: "ab"}.get(int(c.sum()), "abc") for c in cells], length)

    def phrases(self, texts, length):
        return self.tokenize(texts, length)

    def wording(self, samples, noise):
        assert noise is None  # the canonical one: nothing is drawn
        return None

    def embed(self, ids):
        return ids

    def segment(self, vision, view, text, text_mask, wording):
        letters = text_mask.sum(1) - 1  # [b]; the turn's end is no letter
        cells = torch.arange(4) < torch.where(letters > 4, 0, letters)[:, None]  # [b, 4]
        return SimpleNamespace(mask_logits=torch.where(cells, 9.0, -9.0).view(-1, 2, 2))

    def predict(self, image, phrases, max_new_tokens):
        self.asked.append((int(image[0, 0, 0]), list(phrases), max_new_tokens))
        return [Prediction("", {"ab": square(16), "c": square(0)}.get(phrase)) for phrase in phrases]


def result(evaluator, model=None):
    return evaluate("closure", evaluator, model or Cycler(), Progress(0, quiet=True))


def test_hand_computed_metrics():
    # one picture with three regions: two are described as "ab", one as "c"; and one picture with a single region
    items = [region(1, 8, "ab"), region(1, 16, "cdefg"), region(1, 4, None), region(2, 32, "c")]
    evaluator = Closure(data=ListData(items, [[0, 1, 2], [3]]), max_new_tokens=7, caption_length=9, batch_size=2)
    assert isinstance(evaluator, Evaluator)
    model = Cycler()
    found = result(evaluator, model)
    assert model.asked == [(1, ["ab", "ab"], 7), (1, ["c"], 7), (2, ["ab"], 7)]
    ious = [8 / 16, 1, 0, 16 / 32]
    # given "ab" finds two cells, described as "ab"; of "cdefg" nothing is found, and said; "c" finds one cell, "c"
    assert found.metrics == pytest.approx(
        {
            "mask_cIoU": (8 + 16 + 0 + 16) / (16 + 16 + 4 + 32),
            "mask_gIoU": sum(ious) / 4,
            "mask_precision@0.5": 1 / 4,
            "mask_precision@0.7": 1 / 4,
            "mask_precision@0.9": 1 / 4,
            "mask_no_seg_share": 0,
            "mask_empty_share": 1 / 4,
            "distinct_captions": 1 / 3,  # the region that is alone in its picture says nothing
            "caption_gIoU": (1 + 0 + 0.5) / 3,
            "caption_empty_masks": 1 / 3,
            "caption_exact_match": 2 / 3,
            "caption_word_overlap": 2 / 3,
            "caption_token_accuracy": 1,
            "n_regions": 4,
            "n_beside": 3,
            "n_described": 3,
            "n_pictures": 2,
            "n_bad": 0,
        }
    )
    assert {name for name in found.metrics if "empty" in name or "no_seg" in name} == evaluator.lowest_is_best
    assert [(p.title, p.text, p.score) for p in found.pictures[:2]] == [("ab", "ab -> ab", 0.5), ("ab", "cdefg -> (nothing)", 1)]
    assert np.array_equal(found.pictures[0].predicted, square(16))


def test_words_in_part_and_wrong_tokens_count_in_part():
    class Other(Cycler):
        def decode(self, tokens):
            return ["a b" if text == "ab" else text for text in super().decode(tokens)]

    model = Other()
    model.wrong = {4}  # 'd' is never predicted
    [item] = Closure(data=ListData([region(1, 8, "ad")])).measure(model, 0)
    assert (item["again"], item["match"], item["right"], item["tokens"]) == ("a b", False, 2, 3)
    [item] = Closure(data=ListData([region(1, 8, "b d")])).measure(OneText("b c b"), 0)
    assert item["overlap"] == pytest.approx(2 * 1 / (2 + 3))  # "b" once, of two and three words


class OneText(Cycler):
    """Says one thing."""

    def __init__(self, says):
        super().__init__()
        self.says = says

    def tokenize(self, texts, length):
        return super().tokenize([text.replace(" ", "") for text in texts], length)

    def decode(self, tokens):
        return [self.says] * len(tokens.ids)


def test_an_empty_caption_is_not_asked_for_finds_nothing_and_singles_out_nothing():
    model = OneText("")
    evaluator = Closure(data=ListData([region(1, 8, None), region(1, 9, None)], [[0, 1]]))
    found = result(evaluator, model).metrics
    assert model.asked == []
    assert (found["mask_gIoU"], found["mask_empty_share"], found["mask_no_seg_share"], found["distinct_captions"]) == (0, 1, 1, 0)
    assert "caption_exact_match" not in found  # nothing is described
    assert result(Closure(data=ListData([region(1, 8, "ab")]))).metrics.get("distinct_captions") is None


def test_the_mask_is_looked_for_in_the_second_view():
    views = [np.full((8, 8, 3), number, dtype=np.uint8) for number in (1, 7)]
    pair = Region("pair", views[0], square(32), None, image2=views[1], mask2=square(8))
    model = Cycler()
    [item] = Closure(data=ListData([pair])).measure(model, 0)
    assert model.asked == [(7, ["ab"], 64)]
    assert (item["intersection"], item["union"]) == (8, 16)
    assert Closure(data=ListData([pair])).picture({**item}).image[0, 0, 0] == 7


def test_equal_masks_are_one_region_and_subsets_are_spread():
    data = ListData([region(n, 8 + n % 2, "ab") for n in range(8)], [[0, 2, 1], [3], [4], [5, 7, 6]])
    evaluator = Closure(data=data, max_samples=2, max_texts_per_image=1)
    assert [[item["id"] for item in evaluator.measure(Cycler(), unit)] for unit in range(len(evaluator))] == [["r0"], ["r5"]]
    assert [item["id"] for item in Closure(data=data).measure(Cycler(), 0)] == ["r0", "r1"]


def test_bad_samples_are_items_and_nothing_usable_is_an_error():
    data = ListData([BadSample("no picture", "x1"), region(1, 0, "ab"), region(2, 8, "ab")], [[0, 1, 2]])
    with pytest.warns(UserWarning, match=r"2 of 3 .*no picture.*empty mask"):
        found = result(Closure(data=data)).metrics
    assert (found["n_bad"], found["n_regions"], found["n_pictures"]) == (2, 1, 1)
    with pytest.raises(UserError, match=r"nothing could be measured .*no picture"):
        result(Closure(data=ListData([BadSample("no picture", "x1")])))


def test_every_metric_but_counts_has_an_interval():
    evaluator = Closure(data=ListData(regions(5), [[0, 1], [2, 3], [4]]), caption_length=5, batch_size=2)
    model = TinyModel()
    with model.computing(training=False):
        items = [item for unit in range(len(evaluator)) for item in measured(evaluator, model, unit)]
    tally = evaluator.tally(items)
    metrics = scored(evaluator, items, tally)
    draws = draw(evaluator, [item["unit"] for item in items], tally)
    for name, value in metrics.items():
        if not name.startswith("n_"):
            ends = interval(draws[name])
            assert ends is not None, name
            assert ends[0] - 1e-9 <= value <= ends[1] + 1e-9, name


@pytest.mark.parametrize("name", ["max_samples", "max_texts_per_image", "max_new_tokens", "caption_length", "batch_size"])
def test_ranges(name):
    with pytest.raises(ValueError, match=name):
        Closure(data=ListData([]), **{name: 0})
