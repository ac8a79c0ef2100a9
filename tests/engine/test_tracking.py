from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from core.contracts import RunInfo, Tracker
from core.engine.tracking import Trackers
from tests.patience import HANGS_S


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


class Slow(Recorder):
    """Waits in start() and log() until it is let go; where it is not it fails in the end, and so does the test."""

    background = True

    def __init__(self, fails_in=""):
        super().__init__(fails_in)
        self.go = threading.Event()

    def __getattribute__(self, name):
        own = super().__getattribute__(name)
        if name not in ("start", "log"):
            return own

        def call(*arguments):
            assert self.go.wait(HANGS_S), "the run waited for a slow tracker"
            own(*arguments)

        return call


def test_a_slow_tracker_is_not_waited_for_and_misses_nothing():
    slow, quick, warned = Slow(), Recorder(), []
    trackers = Trackers({"slow": slow, "quick": quick}, warn=warned.append)
    trackers.start(RUN)
    values = {"a": 0.0}
    for update in range(1, 501):
        values["a"] = float(update)  # one mapping, changed: the tracker's copy stays
        trackers.log(update, values)
    assert slow.calls == []  # its server has not answered the start yet
    slow.go.set()
    trackers.finish({"b": 1.0})
    assert slow.calls == [("start", RUN), *(("log", update, {"a": float(update)}) for update in range(1, 501)), ("finish", {"b": 1.0})]
    assert len(quick.calls) == 502
    assert warned == []


def test_what_is_left_out_of_a_tracker_that_is_too_slow_is_counted(monkeypatch):
    monkeypatch.setattr("core.engine.tracking.MOST_WAITING", 10)
    slow, warned = Slow(), []
    trackers = Trackers({"slow": slow}, warn=warned.append)
    trackers.start(RUN)
    for update in range(50):
        trackers.log(update, {})
    slow.go.set()
    trackers.finish({})
    assert slow.calls[-1] == ("finish", {})
    assert 38 <= 50 - (len(slow.calls) - 2) <= 41
    assert warned == [f"tracker 'slow' was too slow: {50 - (len(slow.calls) - 2)} of its calls were left out"]


def test_the_end_of_a_run_does_not_wait_for_ever():
    slow, warned = Slow(), []
    trackers = Trackers({"slow": slow}, warn=warned.append, patience_s=0.05)
    trackers.start(RUN)
    trackers.log(1, {})
    trackers.finish({})
    slow.go.set()
    assert len(warned) == 1
    assert "'slow' is still busy" in warned[0]
    assert trackers.active == ()


@pytest.mark.parametrize("fails_in", ["start", "log", "finish"])
def test_a_failing_tracker_in_the_background_is_switched_off_once(fails_in):
    bad, warned = Slow(fails_in), []
    bad.go.set()
    trackers = Trackers({"bad": bad}, warn=warned.append)
    drive(trackers)
    assert trackers.active == ()
    assert len(warned) == 1
    assert f"'bad' failed in {fails_in}()" in warned[0]
    assert [call[0] for call in bad.calls].count(fails_in) == 1


def test_panels_go_to_the_trackers_that_have_them():
    class Shows(Recorder):
        def panels(self, update, name, pictures):
            self.calls.append((update, name, pictures))

    shows, plain = Shows(), Recorder()
    trackers = Trackers({"shows": shows, "plain": plain})
    trackers.panels(3, "pictures/after", [])
    assert (shows.calls, plain.calls) == ([(3, "pictures/after", [])], [])
    assert trackers.active == ("shows", "plain")


def test_samples_go_to_the_trackers_that_show_them_and_as_panels_to_others():
    class Panels(Recorder):
        def panels(self, update, name, pictures):
            self.calls.append(("panels", update, name, pictures))

    class Samples(Panels):
        def training_samples(self, update, name, samples):
            self.calls.append(("training_samples", update, name, samples))

    both, panels, plain = Samples(), Panels(), Recorder()
    Trackers({"both": both, "panels": panels, "plain": plain}).training_samples(3, "samples/loop1/pseudo", [])
    assert both.calls == [("training_samples", 3, "samples/loop1/pseudo", [])]
    assert panels.calls == [("panels", 3, "samples/loop1/pseudo", [])]
    assert plain.calls == []


def test_a_run_that_ends_with_an_error_still_hands_over_what_waits(tmp_path):
    script = f"""
import time
from core.engine.tracking import Trackers
class File:
    background = True
    def start(self, run): ...
    def log(self, update, values):
        time.sleep(0.05)
        open({str(tmp_path / "log")!r}, "a").write(f"{{update}} ")
trackers = Trackers({{"file": File()}})
trackers.start(None)
for update in range(5):
    trackers.log(update, {{}})
raise SystemExit(3)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 3
    assert (tmp_path / "log").read_text() == "0 1 2 3 4 "
