"""How sources are mixed: by size exactly as ever, by weight exactly and evenly, from any position on."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from core.contracts import UserError
from core.engine.feed import requests
from core.engine.mixture import BySize, ByWeight
from core.engine.noise import derived_seed
from core.engine.plan import Plan, Source
from tests.engine.test_plan_and_feed import Numbers

SIZES = (30, 10, 7)


def plan(weights: tuple[float | None, ...], batch: int = 6) -> Plan:
    sources = [Source("l", "t", f"s{i}", Numbers(n), frozenset(), weights[i]) for i, n in enumerate(SIZES)]
    return Plan(sources, 1, batch)


def test_without_weights_the_samples_are_those_of_the_first_release() -> None:
    """The formula written out once more, apart from the code: runs must be resumed by newer versions bit for bit."""
    standing = sorted((j / n, i, j) for i, n in enumerate(SIZES) for j in range(n))
    expected = []
    for epoch in range(3):
        orders = [np.random.default_rng(derived_seed(1, f"loops.l.tasks.t.data.s{i}", epoch)).permutation(n) for i, n in enumerate(SIZES)]
        expected += [(i, int(orders[i][j])) for _, i, j in standing]
    p = plan((None, None, None))
    drawn = [(slot.source, slot.index) for update in range(len(expected) // 6) for slot in p.slots(update)]
    assert drawn == expected[: len(drawn)]


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.7, 0.2, 0.1), (1.0, 3.0, 1e-3), (5.0, 2.5, 2.5)])
def test_every_share_is_exact_and_even_from_any_position_on(weights: tuple[float, ...]) -> None:
    mixture, seen = ByWeight(SIZES, weights), Counter[int]()
    shares = [Fraction(str(weight)) / sum(Fraction(str(w)) for w in weights) for weight in weights]
    for position in range(3000):
        source, epoch, place = mixture.at(position)
        assert epoch * SIZES[source] + place == seen[source]  # each source goes through all its samples, then again
        seen[source] += 1
        assert all(abs(seen[i] - share * (position + 1)) <= 2 for i, share in enumerate(shares))
    if weights == (0.7, 0.2, 0.1):  # tenths are tenths, whatever binary makes of them
        assert [mixture.at(p)[0] for p in range(3000)] == [mixture.at(p % 10)[0] for p in range(3000)]


def test_each_source_has_its_own_epochs_and_their_orders() -> None:
    p = plan((1.0, 1.0, 8.0))
    slots = [slot for update in range(70) for slot in p.slots(update)]
    small = [slot for slot in slots if slot.source == 2]
    rounds = [[slot.index for slot in small[start : start + 7]] for start in range(0, 42, 7)]
    assert all(sorted(one) == list(range(7)) for one in rounds)
    assert len({tuple(one) for one in rounds}) > 3
    assert [slot.epoch for slot in small[:42]] == [n // 7 for n in range(42)]
    assert {slot.epoch for slot in slots if slot.source == 0} == {0, 1}


@pytest.mark.parametrize(("world", "micro"), [(1, 6), (2, 3), (3, 2), (3, 1)])
def test_any_number_of_ranks_draws_the_same_mixture(world: int, micro: int) -> None:
    p = plan((3.0, 1.0, 2.0))
    drawn = [slot for rank in range(world) for request in requests({"l": p}, [(5, "l")], micro, rank, world) for slot in request.slots]
    assert sorted(drawn, key=lambda slot: slot.number) == plan((3.0, 1.0, 2.0)).slots(5)


def test_some_with_and_some_without_a_weight_are_refused() -> None:
    with pytest.raises(UserError, match=r"loops\.l\.tasks\.t\.data\.s1, loops\.l\.tasks\.t\.data\.s2: no weight, which another source"):
        plan((1.0, None, None))


def test_one_source_is_itself_in_either_way() -> None:
    assert [BySize([5]).at(p) for p in range(12)] == [ByWeight([5], [0.3]).at(p) for p in range(12)]
