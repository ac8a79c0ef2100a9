from __future__ import annotations

import numpy as np
import pytest

from core.evaluation.intervals import draw, interval, unit_sums


class Mean:
    """The mean of ``x``."""

    def metrics(self, sums):
        return {"mean": sums["x"] / sums["n"], "undefined": sums["zero"] / sums["zero"], "n_items": sums["n"]}


def intervals(*given, **more):
    found = {name: interval(values) for name, values in draw(*given, **more).items()}
    return {name: ends for name, ends in found.items() if ends}


def tally(x):
    return {"x": np.asarray(x), "n": np.ones(len(x)), "zero": np.zeros(len(x))}


def test_the_interval_of_a_mean_is_the_one_of_the_normal_approximation():
    x = np.random.default_rng(1).normal(3.0, 2.0, 400)
    found = intervals(Mean(), range(400), tally(x), draws=4000)
    assert set(found) == {"mean"}  # counts have none, and what is never finite has none
    low, high = found["mean"]
    assert (low + high) / 2 == pytest.approx(x.mean(), abs=0.03)
    assert high - low == pytest.approx(2 * 1.96 * x.std() / 20, rel=0.06)


def test_pictures_are_drawn_not_expressions():
    """Four equal expressions about each picture say no more than one."""
    x = np.random.default_rng(2).normal(0.0, 1.0, 100)
    once = intervals(Mean(), range(100), tally(x))["mean"]
    four = intervals(Mean(), np.repeat(np.arange(100), 4), tally(np.repeat(x, 4)))["mean"]
    assert four == pytest.approx(once)
    apart = intervals(Mean(), range(400), tally(np.repeat(x, 4)))["mean"]
    assert apart[1] - apart[0] < 0.6 * (once[1] - once[0])


def test_seeded():
    given = (Mean(), range(20), tally(np.arange(20.0)))
    assert intervals(*given) == intervals(*given)
    assert intervals(*given) != intervals(*given, seed=1)


def test_the_difference_of_two_models_is_drawn_on_the_same_pictures():
    """Two models that agree up to a constant differ by exactly that, however far apart the pictures are."""
    x = np.random.default_rng(3).normal(0.0, 5.0, 50)
    low, high = interval(draw(Mean(), range(50), tally(x + 0.25))["mean"] - draw(Mean(), range(50), tally(x))["mean"])
    assert low == pytest.approx(0.25)
    assert high == pytest.approx(0.25)


def test_one_picture_has_no_interval():
    assert intervals(Mean(), [7, 7], tally([1.0, 2.0])) == {}


def test_sums_of_units_that_are_not_numbered_through():
    sums = unit_sums([5, 2, 5], {"x": np.array([1.0, 2.0, 4.0])})
    assert sums["x"].tolist() == [2.0, 5.0]
