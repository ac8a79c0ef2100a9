"""The contract kit of schedules."""

from __future__ import annotations

import pickle
from collections.abc import Collection

import pytest

from core.contracts import KeepsRunningGradient, Schedule
from core.testing._offers import check_offers


class ScheduleKit:
    """Give ``make``; ``names``, where known, are all loops that it may ask for. The first ``updates`` updates are checked."""

    names: Collection[str] | None = None
    updates = 300

    def make(self) -> Schedule:
        raise NotImplementedError

    def test_offers_are_declared_whole(self) -> None:
        check_offers(self.make(), "schedules")

    def test_every_update_has_a_loop_and_none_twice(self) -> None:
        schedule = self.make()
        assert isinstance(schedule, Schedule)
        for update in range(self.updates):
            loops = list(schedule.loops(update))
            assert loops, f"no loop takes part in update {update}"
            assert all(isinstance(name, str) for name in loops)
            assert len(set(loops)) == len(loops), f"a loop comes twice in update {update}"
            if self.names is not None:
                assert set(loops) <= set(self.names), f"update {update} asks for {loops}, of which not all are in names = {self.names}"

    def test_is_a_function_of_the_update_alone(self) -> None:
        """A resumed run asks for update 100 first, and each rank has a schedule of its own."""
        first, second = self.make(), self.make()
        forward = [list(first.loops(update)) for update in range(self.updates)]
        backward = [list(second.loops(update)) for update in reversed(range(self.updates))]
        assert forward == backward[::-1]

    def test_a_running_mean_is_of_a_loop_and_decays(self) -> None:
        """``KeepsRunningGradient``."""
        schedule = self.make()
        if not isinstance(schedule, KeepsRunningGradient):
            pytest.skip("this schedule keeps no running gradient")
        loop, decay = schedule.running
        assert 0 <= decay < 1
        assert loop in {name for update in range(self.updates) for name in schedule.loops(update)}, f"{loop} never takes part"

    def test_can_be_pickled(self) -> None:
        schedule = self.make()
        assert list(pickle.loads(pickle.dumps(schedule)).loops(7)) == list(schedule.loops(7))
