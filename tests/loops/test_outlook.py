"""What the two loops say of figures: the cases of the study that their thresholds come from (``docs/method.md``)."""

from __future__ import annotations

import pytest

from core.contracts import TellsOutlook
from plugins.loops.caption_mask_caption import CaptionMaskCaption
from plugins.loops.mask_caption_mask import MaskCaptionMask
from plugins.losses.bce_dice import BceDice
from plugins.losses.caption_ce import CaptionCe
from plugins.samplers.greedy_st import GreedySt


def loop1() -> MaskCaptionMask:
    return MaskCaptionMask(sampler=GreedySt(), losses={"mask": BceDice(), "answer": CaptionCe()})


def loop2() -> CaptionMaskCaption:
    return CaptionMaskCaption(losses={"caption": CaptionCe(), "answer": CaptionCe()})


NAMES = ("own_words", "given_words", "own_words_of_given", "singled_out", "kept_tokens", "empty_captions")
NEW_LOOK = dict(zip(NAMES, (0.02, 0.78, 0.45, 0.97, 0.95, 0.0), strict=True))
IN_DOMAIN = dict(zip(NAMES, (0.50, 0.85, 0.50, 1.0, 0.60, 0.0), strict=True))


def test_loop_1_where_the_study_saw_its_largest_gain() -> None:
    found = loop1().outlook(NEW_LOOK)
    assert isinstance(loop1(), TellsOutlook)
    assert found.doubts == []
    assert "fails to find what it describes (IoU 0.02)" in found.hope


@pytest.mark.parametrize(("own", "told"), [(0.08, "largest gain"), (0.23, "largest gain"), (0.62, "small gain"), (0.93, "small gain")])
def test_loop_1_on_the_looks_of_the_experiments(own: float, told: str) -> None:
    """dark, pale, tinted, plain of ``docs/evidence.md`` gained 0.42, 0.46, 0.15, at most 0.01 of cIoU; ``own`` was there before."""
    found = loop1().outlook({"own_words": own, "singled_out": 1.0, "kept_tokens": 0.748})  # a quarter of the words masked
    assert found.doubts == []
    assert told in found.hope
    assert "75% of its words reach the segmenter as the teacher wrote them (kept_tokens), and clean text gave more" in found.hope
    assert "clean text" not in loop1().outlook({"own_words": own, "kept_tokens": 0.96}).hope


def test_loop_1_where_the_study_saw_it_harm() -> None:
    kept, wrong = loop1().outlook(IN_DOMAIN).doubts
    assert "only 60% of the words reach the segmenter as the teacher wrote them" in kept
    assert "finds 0.85 (IoU) by the given ones and 0.50 by its own: its words are wrong rather than its masks" in wrong
    assert len(loop1().outlook(IN_DOMAIN | {"own_words_of_given": 0.7}).doubts) == 1


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"kept_tokens": 0.57}, "only 57% of the words"),
        ({"empty_captions": 0.3}, "30% of the captions are empty"),
        ({"singled_out": 0.2}, "only 20% of the captions single out their region"),
        ({"own_words": 0.3}, "its words are wrong rather than its masks"),
    ],
)
def test_each_figure_is_judged(changed: dict[str, float], told: str) -> None:
    [doubt] = loop1().outlook(NEW_LOOK | changed).doubts
    assert told in doubt


def test_a_figure_that_is_not_there_is_not_judged() -> None:
    """A run knows what it logs alone."""
    assert loop1().outlook({}).doubts == loop2().outlook({}).doubts == []
    assert loop1().outlook({"own_words": 0.5}).doubts == []  # no caption of the data to compare with
    assert "small gain" in loop1().outlook({"own_words": 0.5}).hope
    assert len(loop1().outlook({"kept_tokens": 0.5}).doubts) == 1


def test_loop_2_needs_masks() -> None:
    assert isinstance(loop2(), TellsOutlook)
    [doubt] = loop2().outlook({"empty_masks": 0.99, "iou": 0.01}).doubts
    assert "99% of its masks are empty" in doubt
    assert len(loop2().outlook({"empty_masks": 0.5}).doubts) == 1
    found = loop2().outlook({"empty_masks": 0.06})
    assert found.doubts == []
    assert "compare with a run without it" in found.hope
