"""Draws, prepares and batches the samples of each update, in the loader's workers, and counts the bad ones."""

from __future__ import annotations

import atexit
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler

from core.contracts import BadSample, Preparation, RegionBatch, UserError
from core.engine.launch import die_with_parent
from core.engine.plan import Plan, Slot

MAX_ATTEMPTS = 20  # draws for one slot before its source is called unusable
MIN_DRAWS = 100  # draws from a source before its share of bad samples is judged


@dataclass
class MicroBatch:
    """What one backward pass sees: the samples of each task together, and what was wrong with others."""

    parts: list[tuple[str, RegionBatch]]  # (task, batch)
    drawn: Counter[str]  # source path -> draws
    bad: list[tuple[str, str, str]]  # (source path, reason, sample id)

    @property
    def ids(self) -> dict[str, list[str]]:
        """Sample ids of each task."""
        return {task: batch.ids for task, batch in self.parts}


@dataclass(frozen=True)
class _Request:
    """The slots of one micro-batch."""

    slots: tuple[Slot, ...]


class _Drawing(Dataset[MicroBatch]):
    """Maps a request to its micro-batch; runs in a worker."""

    def __init__(self, plan: Plan, preparation: Preparation) -> None:
        self.plan, self.preparation = plan, preparation

    def __getitem__(self, request: _Request) -> MicroBatch:  # type: ignore[override]
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
                micro.bad.append((source.path, bad.reason, bad.sample))
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
        self, plan: Plan, preparation: Preparation, updates: Sequence[int], micro: int, rank: int, world: int, workers: int, max_bad: float
    ) -> None:
        requests = _Requests(plan, updates, micro, rank, world)
        self.per_update = plan.batch // (micro * world)
        self.max_bad = max_bad
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
        try:
            batches = [next(self._batches) for _ in range(self.per_update)]
        except (EOFError, ConnectionError) as error:
            if str(error).startswith("Caught "):  # the worker's own, which torch has carried over
                raise
            raise RuntimeError("DataLoader worker ended while it handed a batch over") from error
        for micro in batches:
            self.drawn += micro.drawn
            self.bad.update((path, reason) for path, reason, _ in micro.bad)
        self._judge()
        return batches

    def _judge(self) -> None:
        bad: Counter[str] = Counter()
        for (path, _), count in self.bad.items():
            bad[path] += count
        for path, count in bad.items():
            if self.drawn[path] >= MIN_DRAWS and count > self.max_bad * self.drawn[path]:
                reasons = ", ".join(f"{n} x {reason}" for (source, reason), n in self.bad.most_common() if source == path)
                raise UserError(
                    f"{path}: {count} of {self.drawn[path]} samples are bad ({reasons}), more than train.max_bad_fraction {self.max_bad}; "
                    "repair the data or raise the limit"
                )


def bad_summary(feeds: Mapping[str, Feed]) -> dict[str, int]:
    """Source path and reason -> count, over all loops."""
    return {f"{path}: {reason}": count for feed in feeds.values() for (path, reason), count in sorted(feed.bad.items())}
