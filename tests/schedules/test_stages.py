"""``stages``: which loops take part when, and what is refused."""

from __future__ import annotations

import pytest

from plugins.schedules.stages import Stage, Stages


def test_each_update_belongs_to_one_stage() -> None:
    schedule = Stages(stages=[Stage(["words"], 2), Stage(["a", "b"], 3), Stage(["b"])])
    assert [schedule.loops(update) for update in range(5)] == [["words"], ["words"], ["a", "b"], ["b"], ["b"]]


@pytest.mark.parametrize(
    "stages", [[], [Stage(["a"], 2)], [Stage(["a"]), Stage(["b"])], [Stage(["a"], 3), Stage(["b"], 2), Stage(["c"])], [Stage([])]]
)
def test_impossible_stages_are_refused(stages: list[Stage]) -> None:
    with pytest.raises(ValueError, match="stages: "):
        Stages(stages=stages)
