"""The schedule that runs every loop in every update."""

from __future__ import annotations

import pytest

from core.contracts import Schedule
from plugins.schedules.alternate import Alternate


def test_every_update_runs_every_loop_in_order():
    schedule = Alternate(order=["loop2", "loop1"])
    assert isinstance(schedule, Schedule)
    assert [list(schedule.loops(update)) for update in (0, 1, 7)] == [["loop2", "loop1"]] * 3


@pytest.mark.parametrize("order", [[], ["loop1", "loop1"]])
def test_an_order_without_sense_is_refused(order):
    with pytest.raises(ValueError, match="order must name"):
        Alternate(order=order)
