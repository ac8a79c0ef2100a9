from __future__ import annotations

import numpy as np
import pytest
from evaluator_fakes import square
from hypothesis import given
from hypothesis import strategies as st

from plugins.evaluators.items import spread
from plugins.evaluators.mask_metrics import compared, metrics, tally

EMPTY = np.zeros((8, 8), dtype=bool)
PAIRS = [(square(10), square(20)), (square(8), square(10)), (None, square(10)), (None, EMPTY), (square(4), EMPTY)]


def measured(pairs):
    sums = {name: values.sum(keepdims=True) for name, values in tally([compared(*pair) for pair in pairs]).items()}
    return {name: value.item() for name, value in metrics(sums).items()}


def test_hand_computed_numbers():
    assert [compared(*pair)["iou"] for pair in PAIRS] == [0.5, 0.8, 0.0, 1.0, 0.0]  # nothing to find and nothing found is right
    assert measured(PAIRS) == pytest.approx(
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
    assert measured([(None, EMPTY)])["cIoU"] == 1


@given(st.lists(st.tuples(st.integers(0, 64) | st.none(), st.integers(0, 64)), min_size=1))
def test_shares_are_shares(pairs):
    values = measured([(None if predicted is None else square(predicted), square(truth)) for predicted, truth in pairs])
    assert all(0 <= value <= 1 for name, value in values.items() if name != "n_expressions")
    assert values["precision@0.5"] >= values["precision@0.7"] >= values["precision@0.9"]


def test_masks_of_different_sizes_are_an_error():
    with pytest.raises(ValueError, match=r"\(8, 8\).*\(4, 4\)"):
        compared(square(4), square(4, side=4))


def test_spread_covers_the_whole_set_and_repeats_nothing():
    assert spread(10, None) == spread(10, 10) == spread(10, 99) == list(range(10))
    assert spread(10, 4) == [0, 3, 6, 9]
    assert spread(10, 0) == []
    for total in range(1, 40):
        for wanted in range(1, total):
            assert len(set(spread(total, wanted))) == wanted
