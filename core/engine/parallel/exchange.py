"""The processes of a run: this process's rank, and the messages between ranks. A process is ``Alone``, or one of a ``Group``."""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from core.contracts import UserError
from core.engine.launch import RESUME, LostRank, check_launch, device_of
from core.engine.parallel.joining import meet
from core.engine.parallel.table import STRATEGIES

_NO_END = timedelta(days=365)


class Exchange(ABC):
    """What the parts of a run that need the other processes ask for."""

    rank = 0
    world = 1
    several = False  # whether there may be other processes, so that what is exchanged must be laid out for it

    @property
    def main(self) -> bool:
        """Whether this is the rank that writes the run folder, logs, checkpoints and evaluations."""
        return self.rank == 0

    @abstractmethod
    def gather(self, value: Any) -> list[Any]:
        """What every rank gave, in the order of ranks; ``value`` is anything JSON can carry."""

    @abstractmethod
    def sum_(self, tensor: Tensor) -> None:
        """Sums a tensor over ranks, in place."""

    @abstractmethod
    def main_first(self, what: str) -> AbstractContextManager[None]:
        """The main rank passes through the block ``what`` before the others enter it, however long it takes."""

    @abstractmethod
    def sharing(self, doing: str) -> AbstractContextManager[None]:
        """Around this rank's share of a work; it ends when every rank is through with its own, however long the slowest takes.

        Raises ``LostRank`` where a rank fails or ends in its share.
        """

    @abstractmethod
    def leave(self) -> None:
        """Ends the exchange."""

    def from_main(self, give: Callable[[], Any]) -> Any:
        """What ``give`` returns on the main rank, which alone calls it; anything JSON can carry."""
        return self.gather(give() if self.main else None)[0]

    def total(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Named numbers summed over ranks; a name that a rank does not have counts as 0 there."""
        sums: dict[str, float] = {}
        for given in self.gather(dict(numbers)):
            for name, number in given.items():
                sums[name] = sums.get(name, 0.0) + number
        return dict(sorted(sums.items())) if self.world > 1 else dict(numbers)


class Alone(Exchange):
    """One process: every exchange is with itself."""

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def sum_(self, tensor: Tensor) -> None:
        pass

    def main_first(self, what: str) -> AbstractContextManager[None]:
        return nullcontext()

    def sharing(self, doing: str) -> AbstractContextManager[None]:
        return nullcontext()

    def leave(self) -> None:
        pass


class Group(Exchange):
    """One process of a ``torch.distributed`` group. A rank that does not answer within the timeout raises ``LostRank``."""

    several = True

    def __init__(self, device: str, timeout_s: int, what_remains: str = RESUME) -> None:
        """``what_remains``: a sentence for the user, of what there is after the loss of a rank."""
        timeout, self.device, self.what_remains = timedelta(seconds=timeout_s), device, what_remains
        if "RANK" in os.environ:
            store, self.rank, self.world = meet(timeout_s)
        else:
            store, self.rank, self.world = dist.HashStore(), 0, 1
        self.store = dist.PrefixStore("dualloop", store)  # for messages without a time limit
        self.timeout_s, self.exchanges, self.shared = timeout_s, 0, 0
        self.before_exchange: Callable[[], None] = lambda: None  # ends what all ranks must have ended before gather and sum_
        place: torch.device | None = None
        if device == "cuda":
            place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(place)
        backend = "cpu:gloo,cuda:nccl" if place else "gloo"
        self._init(backend, dist.PrefixStore("group", store), timeout, place)
        self.unhurried = dist.new_group(backend="gloo", timeout=_NO_END)  # its connections say at once that a rank's process is gone

    def _init(self, backend: str, store: dist.Store, timeout: timedelta, place: torch.device | None) -> None:
        """With its device NCCL connects at once, and not after the model was loaded."""
        try:
            dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.world, timeout=timeout, device_id=place)
        except RuntimeError as error:
            reason = str(error).splitlines()[0][:160]
            advice = "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the network interface that the machines share"
            raise UserError(f"rank {self.rank} cannot connect to the other ranks ({reason}); {advice}") from error

    def gather(self, value: Any) -> list[Any]:
        """Over gloo, on the CPU: the text's lengths, then the texts."""
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)  # [length]
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        self.before_exchange()
        with self.exchanging("exchanging numbers"):
            dist.all_gather(lengths, torch.tensor([len(text)]))
            longest = int(max(lengths))
            padded = torch.nn.functional.pad(text, (0, longest - len(text)))  # [longest]
            texts = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.world)]
            dist.all_gather(texts, padded)
        return [json.loads(part[: int(length)].numpy().tobytes()) for part, length in zip(texts, lengths, strict=True)]

    def sum_(self, tensor: Tensor) -> None:
        self.before_exchange()
        with self.exchanging("summing gradients"):
            dist.all_reduce(tensor)

    @contextmanager
    def main_first(self, what: str) -> Iterator[None]:
        if not self.main:
            with self.exchanging(f"waiting for rank 0 ({what})", numbered=False):
                while not self.store.check([what]):
                    time.sleep(0.1)
        yield
        if self.main:
            self.store.set(what, "done")

    @contextmanager
    def sharing(self, doing: str) -> Iterator[None]:
        self.shared += 1
        failed = f"failed{self.shared}"
        try:
            yield
        except BaseException:
            with suppress(RuntimeError):  # the store is gone with rank 0: this rank's own error is the one to report
                self.store.set(failed, "")
            raise
        with self.exchanging(f"waiting for the others ({doing})", numbered=False):
            through = dist.barrier(self.unhurried, async_op=True)
            while not through.is_completed():  # not wait: a signal is taken between two looks
                if self.store.check([failed]):
                    raise RuntimeError("one of them failed")
                time.sleep(0.05)
            through.wait()

    def leave(self) -> None:
        dist.destroy_process_group()

    @contextmanager
    def exchanging(self, doing: str, numbered: bool = True) -> Iterator[None]:
        """Around one exchange. All ranks make the same ones in the same order: a rank that has not come to it is the one that hangs."""
        began = time.monotonic()
        try:
            if numbered:
                self.exchanges += 1
                self.store.set(f"at{self.rank}", f"{self.exchanges} {doing}")
            yield
        except RuntimeError as error:  # also what gloo, NCCL and the store raise
            reason = str(error).splitlines()[0].split("] ")[-1][:160]
            silent = self._silent() if numbered and time.monotonic() - began >= self.timeout_s else ""
            raise LostRank(
                f"rank {self.rank} lost the other ranks while {doing} ({reason}); "
                + (silent or "the rank that failed first says why. ")
                + self.what_remains[0].upper()
                + self.what_remains[1:],
                names_silent_rank=bool(silent),
            ) from error

    def _silent(self) -> str:
        """Which ranks have not come to this exchange, and what each did last."""
        sentences = []
        for rank in range(self.world):
            try:
                number, last = (self.store.get(f"at{rank}").decode() if self.store.check([f"at{rank}"]) else "0 joining").split(" ", 1)
            except RuntimeError:  # the store lives in rank 0 unless a launcher keeps it
                return "rank 0 does not answer. "
            if int(number) < self.exchanges:
                sentences.append(f"rank {rank} has been silent for launch.timeout_s={self.timeout_s} seconds, since {last}. ")
        return "".join(sentences)


def join(launch: Mapping[str, Any], what_remains: str = RESUME) -> Exchange:
    """The processes that ``launch`` asks for, which a launcher has started; ``what_remains``: what there is after the loss of one.

    Raises ``UserError`` if they differ.
    """
    check_launch(launch)
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != launch["processes"]:
        raise UserError(f"launch.processes={launch['processes']}, but {started} started; set launch.processes={started} or start as many")
    if not STRATEGIES[launch["strategy"]].several:
        return Alone()
    group = Group(device_of(launch), launch["timeout_s"], what_remains)
    devices = group.gather(group.device)
    if len(set(devices)) > 1:
        found = ", ".join(f"{device} on rank {rank}" for rank, device in enumerate(devices))
        raise UserError(f"launch.device=auto is {found}; set it to cpu or cuda for all of them")
    return group
