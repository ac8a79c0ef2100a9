"""What a running job shows: a live display on a terminal, plain lines everywhere else."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text


def duration(seconds: float) -> str:
    """``42s``, ``3m07s``, ``2h05m``, ``4d03h``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


class Progress:
    """A context manager around a run of ``total`` updates.

    Of the values given to ``update`` those are shown whose name the regular expression ``show`` finds: by default the
    loss of each loop and the cosines of their gradients. Plain lines come at the first and the last update and otherwise
    at most every ``interval`` seconds of ``clock``. ``quiet`` shows nothing. Speed and time left are known from the
    second update on: the first one counts neither the building of the model nor, on resume, the updates done before.
    """

    def __init__(
        self,
        total: int,
        quiet: bool = False,
        *,
        interval: float = 5.0,
        window: int = 30,
        show: str = r"(^|/)loss$|(^|/)cosine/[^/]+$",
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or Console()
        self._total, self._done, self._quiet, self._interval, self._show, self._clock = total, 0, quiet, interval, re.compile(show), clock
        self._marks: deque[tuple[float, int, int]] = deque(maxlen=window + 1)  # time, update, samples so far
        self._values: dict[str, float] = {}
        self._phase: tuple[str, int, int, str] | None = None
        self._paused, self._last_line = 0.0, float("-inf")
        live = not quiet and self.console.is_terminal
        self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=4) if live else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def update(self, update: int, values: Mapping[str, float], samples: int) -> None:
        """``update`` of ``total`` is done; it used ``samples`` samples (over all processes)."""
        self._done = update
        self._values = {name: float(value) for name, value in values.items() if self._show.search(name)}
        self._marks.append((self._now(), update, samples + (self._marks[-1][2] if self._marks else 0)))
        if not self._live:
            self._line(self._summary(), due=len(self._marks) == 1 or update >= self._total)

    @contextmanager
    def phase(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """A stretch that is no training, such as an evaluation; its time does not count for the time left.

        Gives the callback ``(done, total)``. Time left is known from its second call on.
        """
        began = self._clock()
        self._phase = (name, 0, 0, "")
        first: list[tuple[float, int]] = []  # when the callback was called first, and what was done by then

        def callback(done: int, total: int) -> None:
            now = self._clock()
            if not first:
                first.append((now, done))
            since, before = first[0]
            left = f"{duration((now - since) / (done - before) * (total - done))} left" if before < done < total and now > since else ""
            self._phase = (name, done, total, left)
            if not self._live:
                self._line(f"{name} {done}/{total}  {left}".rstrip(), due=done >= total)

        try:
            yield callback
        finally:
            self._phase = None
            self._paused += self._clock() - began

    def note(self, text: str) -> None:
        """One line that stays, above the live display."""
        if not self._quiet:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Like ``note``, also where a quiet run shows nothing but its results."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def rates(self) -> tuple[float, float] | None:
        """(samples per second, seconds left), a moving average over the last ``window`` updates; None before the second."""
        if not self._marks:
            return None
        (began, first, before), (now, last, after) = self._marks[0], self._marks[-1]
        if last <= first or now <= began:
            return None
        return (after - before) / (now - began), (now - began) / (last - first) * max(0, self._total - last)

    def _now(self) -> float:
        return self._clock() - self._paused

    def _line(self, text: str, due: bool) -> None:
        if due or self._clock() - self._last_line >= self._interval:
            self._last_line = self._clock()
            self.note(text)

    def _speed(self) -> str:
        rates = self.rates()
        return f"{rates[0]:.3g} samples/s  {duration(rates[1])} left" if rates else ""

    def _summary(self) -> str:
        values = [f"{name} {value:.4g}" for name, value in self._values.items()]
        return "  ".join(part for part in [f"update {self._done}/{self._total}", *values, self._speed()] if part)

    def _render(self) -> RenderableType:
        def row(name: str, done: int, total: int, right: str) -> Table:
            grid = Table.grid(padding=(0, 1))
            grid.add_row(name, ProgressBar(total=max(1, total), completed=done, width=30), f"{done}/{total}", Text(right, style="cyan"))
            return grid

        rows: list[RenderableType] = [row("update", self._done, self._total, self._speed())] if self._total else []
        if self._values:
            table = Table.grid(padding=(0, 2))
            for name, value in self._values.items():
                table.add_row(Text("  " + name, style="dim"), f"{value:.4g}")
            rows.append(table)
        if self._phase:
            rows.append(row(*self._phase))
        return Group(*rows)
