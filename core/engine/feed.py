"""The micro-batches of each update, made ahead by worker processes, and the count of bad samples."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.contracts import Preparation, UserError
from core.engine.drawing import BadDraw, Drawing, MicroBatch, Request
from core.engine.launch import stopping
from core.engine.plan import Plan
from core.engine.pool import Pool

MIN_DRAWS = 100  # draws from a source before its share of bad samples is judged


@dataclass(frozen=True)
class Ahead:
    """What the loading of samples takes on a machine, beside the processes that train."""

    processes: int  # worker processes of one training process, for all its loops together
    most_bytes: int  # of micro-batches that are ready or under way for one training process; 0 without workers


def ahead(train: Mapping[str, Any]) -> Ahead:
    """The rule of a recipe's ``train`` keys. One micro-batch is always under way, also where it alone is larger than the bound."""
    workers: int = train["workers"]
    return Ahead(workers, round(train["prefetch_gib"] * 2**30) if workers else 0)


class Supply:
    """The micro-batches of all loops on one rank, in the order in which updates take them; one pool of workers makes them."""

    def __init__(
        self,
        plans: Mapping[str, Plan],
        preparation: Preparation,
        order: Iterable[tuple[int, str]],
        micro: int,
        rank: int = 0,
        world: int = 1,
        room: Ahead | None = None,
        *,
        teacher_preparation: Preparation | None = None,
        pinned: bool = False,
    ) -> None:
        """``order``: (update, loop) as they are taken. ``micro``: samples of a micro-batch. ``teacher_preparation``: see ``Drawing``.

        ``pinned``: the tensors that workers send lie in pinned memory, see ``passing.receive``.
        """
        self.plans, self.micro, self.world = plans, micro, world
        drawing = Drawing(plans, preparation, teacher_preparation)
        wanted = requests(plans, order, micro, rank, world)
        self._pool: Pool | None = None
        if room is not None and room.processes:
            self._pool = Pool(drawing, ((request.loop, request) for request in wanted), room.processes, room.most_bytes, pinned)
        else:
            self._drawn: Iterator[MicroBatch | UserError] = map(drawing, wanted)

    def take(self, loop: str) -> MicroBatch:
        """The next micro-batch, which must be one of ``loop``. Raises ``UserError``; ``Stopped`` where a signal ends the wait."""
        with stopping.waiting("for samples"):
            micro: MicroBatch | UserError = self._pool.take() if self._pool else next(self._drawn)
        if isinstance(micro, UserError):
            raise micro
        if micro.loop != loop:
            raise RuntimeError(f"{loop} asks for samples where {micro.loop} is next: loops must be fed in the order of the schedule")
        return micro

    def close(self) -> None:
        """Ends the workers. They ignore SIGTERM, and without it the process would wait for them at its end."""
        if self._pool:
            self._pool.close()


def requests(plans: Mapping[str, Plan], order: Iterable[tuple[int, str]], micro: int, rank: int, world: int) -> Iterator[Request]:
    """This rank's micro-batches."""
    for update, loop in order:
        mine = plans[loop].slots(update)[rank::world]
        for start in range(0, len(mine), micro):
            yield Request(loop, tuple(mine[start : start + micro]))


class Feed:
    """The micro-batches of one loop, update after update, and the running count of bad samples."""

    def __init__(self, loop: str, supply: Supply, max_bad: float, record: Path | None = None) -> None:
        """``max_bad``: share of a source's samples. ``record``: a file to which each bad sample is added as a line of JSON."""
        self.loop, self.supply, self.max_bad, self.record = loop, supply, max_bad, record
        self.per_update = supply.plans[loop].batch // (supply.micro * supply.world)
        self.drawn: Counter[str] = Counter()
        self.bad: Counter[tuple[str, str]] = Counter()

    def close(self) -> None:
        """Ends the workers of all loops."""
        self.supply.close()

    def update(self) -> list[MicroBatch]:
        """The micro-batches of the next update. Raises ``UserError`` past the allowed share of bad samples."""
        batches = [self.supply.take(self.loop) for _ in range(self.per_update)]
        for micro in batches:
            self.drawn += micro.drawn
            self.bad.update((draw.source, draw.reason) for draw in micro.bad)
        self._note([draw for micro in batches for draw in micro.bad])
        self._judge()
        return batches

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
