"""``cycle``: which loops take part when, and what is refused."""

from __future__ import annotations

import pytest

from plugins.schedules.cycle import Cycle


def test_the_pattern_repeats() -> None:
    schedule = Cycle(pattern=[["words"], ["a", "b"]])
    assert [schedule.loops(update) for update in range(4)] == [["words"], ["a", "b"]] * 2


@pytest.mark.parametrize("pattern", [[], [["a"], []]])
def test_a_pattern_without_loops_is_refused(pattern: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="pattern needs"):
        Cycle(pattern=pattern)
