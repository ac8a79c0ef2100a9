"""The micro-batches of each update, made ahead by the loader's workers, and the count of bad samples."""

from __future__ import annotations

import atexit
import json
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Sampler

from core.contracts import Preparation, UserError
from core.engine.drawing import BadDraw, Drawing, MicroBatch, Request
from core.engine.evaluation import write_whole
from core.engine.launch import die_with_parent
from core.engine.plan import Plan

MIN_DRAWS = 100  # draws from a source before its share of bad samples is judged


def _be_worker(number: int) -> None:
    """A loader's worker ends with its process and not before: a scheduler sends its signals to every process of a job."""
    for stop in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(stop, signal.SIG_IGN)
    die_with_parent()


class _Requests(Sampler[Request]):
    def __init__(self, plan: Plan, updates: Sequence[int], micro: int, rank: int, world: int) -> None:
        self.plan, self.updates, self.micro, self.rank, self.world = plan, updates, micro, rank, world

    def __len__(self) -> int:
        return len(self.updates) * (self.plan.batch // (self.micro * self.world))

    def __iter__(self) -> Iterator[Request]:
        for update in self.updates:
            mine = self.plan.slots(update)[self.rank :: self.world]
            for start in range(0, len(mine), self.micro):
                yield Request(tuple(mine[start : start + self.micro]))


class Feed:
    """The micro-batches of one loop, update after update, and the running count of bad samples."""

    def __init__(
        self,
        plan: Plan,
        preparation: Preparation,
        updates: Sequence[int],
        micro: int,
        rank: int,
        world: int,
        workers: int,
        max_bad: float,
        record: Path | None = None,
        teacher_preparation: Preparation | None = None,
    ) -> None:
        """``record``: a file to which each bad sample is added as a line of JSON. ``teacher_preparation``: see ``Drawing``."""
        requests = _Requests(plan, updates, micro, rank, world)
        self.per_update = plan.batch // (micro * world)
        self.max_bad, self.record = max_bad, record
        self.drawn: Counter[str] = Counter()
        self.bad: Counter[tuple[str, str]] = Counter()
        loader = DataLoader(
            Drawing(plan, preparation, teacher_preparation),
            sampler=requests,
            batch_size=None,
            num_workers=workers,
            pin_memory=False,
            persistent_workers=False,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_be_worker,
        )
        self._batches: Any = iter(loader)
        self._workers = workers
        if workers:
            atexit.register(self.close)  # later than multiprocessing registered its own, which waits for workers, and so before it

    def close(self) -> None:
        """Ends the loader's workers. They ignore SIGTERM, and without it the process would wait for them at its end."""
        if self._workers:
            atexit.unregister(self.close)
            self._batches._shutdown_workers()  # not public; otherwise it happens when the last reference goes, if that happens
            for worker in self._batches._workers:
                worker.kill()  # one that was busy for longer than that waits

    def update(self) -> list[MicroBatch]:
        """The micro-batches of the next update. Raises ``UserError`` past the allowed share of bad samples."""
        batches = [self._next() for _ in range(self.per_update)]
        for micro in batches:
            self.drawn += micro.drawn
            self.bad.update((draw.source, draw.reason) for draw in micro.bad)
        self._note([draw for micro in batches for draw in micro.bad])
        self._judge()
        return batches

    def _next(self) -> MicroBatch:
        try:
            micro: MicroBatch | UserError = next(self._batches)
        except (EOFError, ConnectionError) as error:
            if str(error).startswith("Caught "):  # the worker's own, which torch has carried over
                raise
            raise RuntimeError("DataLoader worker ended while it handed a batch over") from error
        if isinstance(micro, UserError):
            raise micro
        return micro

    def _note(self, bad: Sequence[BadDraw]) -> None:
        if bad and self.record is not None:
            with self.record.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(json.dumps(asdict(draw), ensure_ascii=False) + "\n" for draw in bad)

    def _judge(self) -> None:
        bad: Counter[str] = Counter()
        for (path, _), count in self.bad.items():
            bad[path] += count
        for path, count in bad.items():
            if self.drawn[path] >= MIN_DRAWS and count > self.max_bad * self.drawn[path]:
                reasons = ", ".join(f"{n} x {reason}" for (source, reason), n in self.bad.most_common() if source == path)
                named = f"{self.record} names them; " if self.record else ""
                raise UserError(
                    f"{path}: {count} of {self.drawn[path]} samples are bad ({reasons}), more than train.max_bad_fraction {self.max_bad}; "
                    f"{named}repair the data or raise the limit"
                )


def bad_samples(folder: Path) -> dict[str, int]:
    """Source path and reason -> count of the bad samples that all ranks have drawn in the run in ``folder``, also before a resume."""
    counts = Counter(f"{row['source']}: {row['reason']}" for file in _records(folder) for row in _lines(file))
    return dict(sorted(counts.items()))


def forget_bad_samples(folder: Path, start: int) -> None:
    """Takes out what was noted of updates from ``start`` on (from 0), which are made again."""
    for file in _records(folder):
        rows = list(_lines(file))
        if kept := [row for row in rows if row["update"] < start]:
            write_whole(file, "".join(json.dumps(row) + "\n" for row in kept))
        else:
            file.unlink()


def _records(folder: Path) -> list[Path]:
    return sorted(folder.glob("bad_samples*.jsonl"))


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
        except ValueError:  # the line during which an earlier process died
            continue
        if isinstance(row, dict) and {"update", "source", "reason"} <= row.keys():
            yield row
