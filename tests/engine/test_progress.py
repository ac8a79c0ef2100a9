from __future__ import annotations

import io

import pytest
from rich.console import Console

from core.engine.progress import Progress, duration

VALUES = {
    "loop1/loss": 0.5,
    "loop1/pseudo/mask": 0.3,
    "loop1/pseudo/topk_mass": 0.9,
    "surgery/cosine/loop1_loop2": -0.25,
    "surgery/cosine/loop1_loop2/lora": 0.125,
}


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def plain(total, clock, **kwargs):
    stream = io.StringIO()
    return Progress(total, console=Console(file=stream, width=200, force_terminal=False), clock=clock, **kwargs), stream


def test_plain_lines_first_last_and_every_interval():
    clock = Clock()
    progress, stream = plain(20, clock)
    with progress:
        for update in range(1, 21):
            clock.now += 1
            progress.update(update, VALUES, samples=8)
    lines = stream.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == [f"update {n}/20" for n in (1, 6, 11, 16, 20)]
    assert lines[0] == "update 1/20  loop1/loss 0.5  surgery/cosine/loop1_loop2 -0.25"
    assert lines[1] == lines[0].replace(" 1/20", " 6/20") + "  8 samples/s  14s left"


def test_time_left_is_a_moving_average():
    clock = Clock()
    progress, _ = plain(100, clock, window=10)
    with progress:
        assert progress.rates() is None
        for update in range(1, 31):
            clock.now += 10 if update <= 20 else 2  # the slow start is outside the window
            progress.update(update, {}, samples=4)
    assert progress.rates() == pytest.approx((2.0, 70 * 2.0))


def test_evaluation_does_not_count_as_training_time():
    clock = Clock()
    progress, stream = plain(10, clock)
    with progress:
        for update in range(1, 5):
            clock.now += 1
            progress.update(update, {}, samples=1)
            with progress.phase("evaluating refcoco") as callback:
                for done in range(1, 4):
                    clock.now += 100
                    callback(done, 3)
    assert progress.rates() == pytest.approx((1.0, 6.0))
    assert "evaluating refcoco 3/3" in stream.getvalue()


def test_neither_building_nor_updates_before_a_resume_count():
    clock = Clock()
    progress, _ = plain(20, clock)
    with progress:
        clock.now += 500  # the model is built
        progress.update(9, {}, samples=6)
        assert progress.rates() is None
        clock.now += 3
        progress.update(10, {}, samples=6)
    assert progress.rates() == pytest.approx((2.0, 30.0))


def test_quiet_shows_nothing():
    clock = Clock()
    progress, stream = plain(1, clock, quiet=True)
    with progress, progress.phase("evaluating x") as callback:
        callback(1, 1)
        progress.update(1, {"loss": 1.0}, 1)
        progress.note("hello")
    assert stream.getvalue() == ""


def test_note_is_printed_as_it_is():
    progress, stream = plain(1, Clock())
    progress.note("[bold] data[0] " + "x" * 300)
    assert stream.getvalue() == "[bold] data[0] " + "x" * 300 + "\n"


def test_live_display_on_a_terminal():
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, width=100, force_terminal=True, color_system=None)
    with Progress(10, console=console, clock=clock) as progress:
        progress.update(3, {}, samples=8)
        clock.now += 2
        progress.update(4, {"loop1/loss": 0.125}, samples=8)
        with progress.phase("evaluating refcoco") as callback:
            callback(3, 7)
            progress.note("a line that stays")
            progress._live.refresh()
    shown = stream.getvalue()
    for part in ("4/10", "0.125", "4 samples/s", "12s left", "evaluating refcoco", "3/7", "a line that stays"):
        assert part in shown


def test_durations():
    assert [duration(s) for s in (0, 59.4, 59.6, 3599, 3600, 86400 * 4 + 3600 * 3)] == ["0s", "59s", "1m00s", "59m59s", "1h00m", "4d03h"]
