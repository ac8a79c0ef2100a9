"""A run warns once of figures with which a loop can hardly be expected to help."""

from __future__ import annotations

from types import SimpleNamespace

from core.contracts import Outlook
from core.engine.outlook import UPDATES, Doubts


class Task:
    def outlook(self, figures):
        return Outlook([f"empty is {figures['empty']:.2f}"] if figures.get("empty", 0) > 0.4 else [])


def test_the_mean_of_the_first_updates_is_judged_once() -> None:
    doubts = Doubts({"loop1/a": Task(), "loop2/b": Task(), "loop2/plain": SimpleNamespace()})
    told = []
    for number in range(3 * UPDATES):
        values = {"loop1/a/empty": 1.0 if number < UPDATES / 2 else 0.0, "loop2/plain/empty": 1.0, "time/update_s": 1.0}
        if number % 2:  # takes part in every other update
            values |= {"loop2/b/empty": 0.3, "loop2/b/other": 1.0}
        told += [(number, text) for text in doubts.take(values, last=False)]
    assert told == [(UPDATES - 1, "warning: loop1/a can hardly be expected to help so far: empty is 0.50")]


def test_a_short_run_is_judged_at_its_end() -> None:
    doubts = Doubts({"loop1/a": Task(), "loop2/b": Task()})
    assert list(doubts.take({"loop1/a/empty": 0.8}, last=False)) == []
    assert list(doubts.take({"loop1/a/empty": 0.6}, last=True)) == ["warning: loop1/a can hardly be expected to help so far: empty is 0.70"]
    assert list(doubts.take({"loop1/a/empty": 0.6}, last=True)) == []
