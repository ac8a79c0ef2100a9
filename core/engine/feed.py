"""Draws, prepares and batches the samples of each update, in the loader's workers, and counts the bad ones."""

from __future__ import annotations

import atexit
import json
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler

from core.contracts import BadSample, Preparation, RegionBatch, UserError
from core.engine.launch import die_with_parent
from core.engine.plan import Plan, Slot

MAX_ATTEMPTS = 20  # draws for one slot before its source is called unusable
MIN_DRAWS = 100  # draws from a source before its share of bad samples is judged


@dataclass(frozen=True)
class BadDraw:
    """A sample that was drawn and could not be used."""

    update: int
    source: str  # its path
    reason: str
    sample: str
    detail: str


@dataclass
class MicroBatch:
    """What one backward pass sees: the samples of each task together, and what was wrong with others."""

    parts: list[tuple[str, RegionBatch]]  # (task, batch)
    drawn: Counter[str]  # source path -> draws
    bad: list[BadDraw]

    @property
    def ids(self) -> dict[str, list[str]]:
        """Sample ids of each task."""
        return {task: batch.ids for task, batch in self.parts}


@dataclass(frozen=True)
class _Request:
    """The slots of one micro-batch."""

    slots: tuple[Slot, ...]


class _Drawing(Dataset[MicroBatch | UserError]):
    """Maps a request to its micro-batch; runs in a worker.

    A ``UserError`` is returned, not raised: the loader would wrap its sentence into the worker's traceback.
    """

    def __init__(self, plan: Plan, preparation: Preparation) -> None:
        self.plan, self.preparation = plan, preparation

    def __getitem__(self, request: _Request) -> MicroBatch | UserError:  # type: ignore[override]
        try:
            return self._micro_batch(request)
        except UserError as error:
            return error

    def _micro_batch(self, request: _Request) -> MicroBatch:
        micro = MicroBatch([], Counter(), [])
        by_task: dict[str, list[Any]] = {}
        for slot in request.slots:
            by_task.setdefault(self.plan.sources[slot.source].task, []).append(self._draw(slot, micro))
        micro.parts = [(task, self.preparation.collate(samples)) for task, samples in sorted(by_task.items())]
        return micro

    def _draw(self, slot: Slot, micro: MicroBatch) -> Any:
        source, index = self.plan.sources[slot.source], slot.index
        last: BadSample | None = None
        for attempt in range(1, MAX_ATTEMPTS + 1):
            micro.drawn[source.path] += 1
            try:
                region = source.dataset[index]
                # one id space over all sources: noise is derived from it
                return self.preparation(replace(region, id=f"{source.name}/{region.id}"), source.needs)
            except BadSample as bad:
                micro.bad.append(BadDraw(slot.update, source.path, bad.reason, bad.sample, bad.detail))
                last, index = bad, self.plan.replacement(slot, attempt)
        raise UserError(
            f"{source.path}: {MAX_ATTEMPTS} draws in a row were bad, the last one {last}; check the data set's folder and options"
        )


def _be_worker(number: int) -> None:
    """A loader's worker ends with its process and not before: a scheduler sends its signals to every process of a job."""
    for stop in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(stop, signal.SIG_IGN)
    die_with_parent()


class _Requests(Sampler[_Request]):
    def __init__(self, plan: Plan, updates: Sequence[int], micro: int, rank: int, world: int) -> None:
        self.plan, self.updates, self.micro, self.rank, self.world = plan, updates, micro, rank, world

    def __len__(self) -> int:
        return len(self.updates) * (self.plan.batch // (self.micro * self.world))

    def __iter__(self) -> Iterator[_Request]:
        for update in self.updates:
            mine = self.plan.slots(update)[self.rank :: self.world]
            for start in range(0, len(mine), self.micro):
                yield _Request(tuple(mine[start : start + self.micro]))


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
    ) -> None:
        """``record``: a file to which each bad sample is added as a line of JSON."""
        requests = _Requests(plan, updates, micro, rank, world)
        self.per_update = plan.batch // (micro * world)
        self.max_bad, self.record = max_bad, record
        self.drawn: Counter[str] = Counter()
        self.bad: Counter[tuple[str, str]] = Counter()
        loader = DataLoader(
            _Drawing(plan, preparation),
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


def bad_summary(feeds: Mapping[str, Feed]) -> dict[str, int]:
    """Source path and reason -> count, over all loops."""
    return {f"{path}: {reason}": count for feed in feeds.values() for (path, reason), count in sorted(feed.bad.items())}
