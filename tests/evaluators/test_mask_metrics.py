from __future__ import annotations

import numpy as np
import pytest
from evaluator_fakes import square
from hypothesis import given
from hypothesis import strategies as st

from plugins.evaluators.items import spread
from plugins.evaluators.mask_metrics import MaskScores

EMPTY = np.zeros((8, 8), dtype=bool)


def test_hand_computed_numbers():
    scores = MaskScores()
    assert scores.add(square(10), square(20)) == 0.5  # inside: 10 / 20
    assert scores.add(square(8), square(10)) == 0.8
    assert scores.add(None, square(10)) == 0.0
    assert scores.add(None, EMPTY) == 1.0  # nothing to find, nothing found
    assert scores.add(square(4), EMPTY) == 0.0
    assert scores.metrics() == pytest.approx(
        {
            "cIoU": (10 + 8) / (20 + 10 + 10 + 0 + 4),
            "gIoU": (0.5 + 0.8 + 0 + 1 + 0) / 5,
            "precision@0.5": 2 / 5,  # 0.5 itself is not above 0.5
            "precision@0.7": 2 / 5,
            "precision@0.9": 1 / 5,
            "no_seg_share": 2 / 5,
            "n_expressions": 5,
        }
    )


@given(st.lists(st.tuples(st.integers(0, 64) | st.none(), st.integers(0, 64)), min_size=1), st.integers(1, 4))
def test_parts_merge_to_the_whole(pairs, n_parts):
    def scored(chosen):
        scores = MaskScores()
        for predicted, truth in chosen:
            scores.add(None if predicted is None else square(predicted), square(truth))
        return scores

    merged = MaskScores.merged([scored(pairs[part::n_parts]) for part in range(n_parts)])
    assert merged.metrics() == pytest.approx(scored(pairs).metrics())


def test_masks_of_different_sizes_are_an_error():
    with pytest.raises(ValueError, match=r"\(8, 8\).*\(4, 4\)"):
        MaskScores().add(square(4), square(4, side=4))


def test_no_expression_is_an_error_and_not_a_number():
    with pytest.raises(ValueError, match="no expression"):
        MaskScores().metrics()


def test_spread_covers_the_whole_set_and_repeats_nothing():
    assert spread(10, None) == spread(10, 10) == spread(10, 99) == list(range(10))
    assert spread(10, 4) == [0, 3, 6, 9]
    assert spread(10, 0) == []
    for total in range(1, 40):
        for wanted in range(1, total):
            assert len(set(spread(total, wanted))) == wanted
