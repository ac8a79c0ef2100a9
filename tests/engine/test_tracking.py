from __future__ import annotations

from pathlib import Path

import pytest

from core.contracts import RunInfo, Tracker
from core.engine.tracking import Trackers


class Recorder:
    def __init__(self, fails_in=""):
        self.calls, self.fails_in = [], fails_in

    def __getattribute__(self, name):
        if name not in ("start", "log", "picture", "finish"):
            return super().__getattribute__(name)

        def call(*arguments):
            self.calls.append((name, *arguments))
            if name == self.fails_in:
                raise OSError("disk full")

        return call

    def start(self, run): ...
    def log(self, update, values): ...
    def picture(self, update, name, path): ...
    def finish(self, summary): ...


RUN = RunInfo(Path("x"), "r", {}, 0)


def drive(trackers):
    trackers.start(RUN)
    trackers.log(1, {"a": 1.0})
    trackers.log(2, {"a": 2.0})
    trackers.picture(2, "sheet", Path("s.png"))
    trackers.finish({"b": 3.0})


ALL = [("start", RUN), ("log", 1, {"a": 1.0}), ("log", 2, {"a": 2.0}), ("picture", 2, "sheet", Path("s.png")), ("finish", {"b": 3.0})]


def test_every_call_reaches_every_tracker():
    first, second = Recorder(), Recorder()
    trackers = Trackers({"first": first, "second": second})
    assert isinstance(trackers, Tracker)
    drive(trackers)
    assert first.calls == second.calls == ALL


@pytest.mark.parametrize(("method", "calls"), [("start", 1), ("log", 2), ("picture", 4), ("finish", 5)])
def test_a_failing_tracker_is_switched_off_once_and_the_others_go_on(method, calls):
    bad, good, warned = Recorder(method), Recorder(), []
    trackers = Trackers({"bad": bad, "good": good}, warn=warned.append)
    drive(trackers)
    assert len(bad.calls) == calls
    assert good.calls == ALL
    assert trackers.active == ("good",)
    assert len(warned) == 1
    assert f"'bad' failed in {method}()" in warned[0]
    assert "OSError: disk full" in warned[0]


def test_the_warning_is_a_python_warning_by_default():
    with pytest.warns(UserWarning, match="switched off"):
        Trackers({"bad": Recorder("start")}).start(RUN)


def test_an_interrupt_is_not_swallowed():
    class Interrupted(Recorder):
        def log(self, update, values):
            raise KeyboardInterrupt

        def __getattribute__(self, name):
            return object.__getattribute__(self, name)

    with pytest.raises(KeyboardInterrupt):
        Trackers({"x": Interrupted()}).log(1, {})
