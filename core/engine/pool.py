"""Worker processes that carry requests out ahead of time. What they make comes back in the order of the requests.

How far ahead is bounded in bytes: what is ready, and what the busy workers are expected to bring, never exceeds the bound by more
than the difference between one result and the largest one of its kind so far. One request is always under way.
"""

from __future__ import annotations

import atexit
import errno
import multiprocessing
import random
import selectors
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from core.contracts import UserError
from core.engine.launch import RESUME, die_with_parent
from core.engine.passing import Packed, receive

_CONTEXT = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)


@dataclass(frozen=True)
class Failure:
    """What went wrong in a worker while it carried a request out; picklable, whatever the exception was."""

    sentence: str

    @staticmethod
    def of(error: Exception) -> Failure:
        """Names the exception, the line of code and the notes that it carries (``BaseException.add_note``)."""
        frames = traceback.extract_tb(error.__traceback__)
        at = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno}, in {frames[-1].name})" if frames else ""
        about = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
        few_files = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
        advice = "raise the limit of open files (ulimit -n)" if few_files else "train.workers=0 shows the way there in the code"
        return Failure(f"{about}{type(error).__name__}: {_line(error)}{at}, in a process that loads data; {advice}")


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    socket: socket.socket


class Pool:
    """Carries ``requests`` out with ``carry_out``, in other processes; they must be forked before this process starts threads."""

    def __init__(
        self, carry_out: Callable[[Any], Any], requests: Iterable[tuple[str, Any]], workers: int, most_bytes: int, pinned: bool = False
    ) -> None:
        """``requests``: (a word for those whose results are of similar size, the request). Raises ``UserError``."""
        self._requests, self._most_bytes, self._pinned = iter(requests), most_bytes, pinned
        self._state = threading.Condition()  # guards all that follows; notified where a result or a failure has come
        self._ready: dict[int, tuple[Any, int]] = {}  # number of the request -> its result and the bytes of it
        self._busy: dict[_Worker, tuple[int, str]] = {}  # -> number and kind of its request
        self._largest: dict[str, int] = {}  # kind -> bytes
        self._dealt = self._taken = 0
        self._failed: Exception | None = None
        self._closed = False
        self._reader: threading.Thread | None = None
        self._next = next(self._requests, None)
        self._workers: list[_Worker] = []
        atexit.register(self.close)  # later than multiprocessing registered its own, which waits for workers, and so before it
        try:
            for number in range(workers):
                self._workers.append(_started(carry_out, number, [worker.socket for worker in self._workers]))
        except OSError as error:
            self.close()
            advice = "raise the limits of processes and open files (ulimit -u, -n), or lower train.workers"
            raise UserError(f"train.workers={workers}: the process number {number + 1} cannot be started ({error}); {advice}") from error
        self._idle = list(reversed(self._workers))
        self._device = torch.cuda.current_device() if pinned else None
        self._reader = threading.Thread(target=self._read, name="reader of samples", daemon=True)
        self._reader.start()
        with self._state:
            self._deal()

    def take(self) -> Any:
        """The result of the next request, waited for. Raises ``UserError`` where a worker is gone."""
        with self._state:
            while self._taken not in self._ready:
                if self._failed is not None:
                    raise self._failed
                if self._taken == self._dealt and self._next is None:
                    raise RuntimeError("all requests are carried out")
                self._state.wait()
            value, _ = self._ready.pop(self._taken)
            self._taken += 1
            self._deal()
        if isinstance(value, Failure):
            raise UserError(value.sentence)
        return value

    @property
    def ahead(self) -> tuple[int, int]:
        """(requests under way or ready, bytes of the ready ones and, expected, of those under way)."""
        with self._state:
            return len(self._busy) + len(self._ready), self._bytes()

    def _bytes(self) -> int:
        coming = sum(self._largest.get(kind, self._most_bytes) for _, kind in self._busy.values())
        return coming + sum(size for _, size in self._ready.values())

    def _deal(self) -> None:
        """Gives the next requests to idle workers, as far as the bound lets them; what is of a kind not yet seen goes alone."""
        while self._idle and self._next is not None and self._failed is None and not self._closed:
            kind, request = self._next
            if (self._busy or self._ready) and self._bytes() + self._largest.get(kind, self._most_bytes) > self._most_bytes:
                return
            worker = self._idle.pop()
            self._busy[worker] = self._dealt, kind
            self._dealt += 1
            try:
                Packed(request).send(worker.socket)  # it waits for one, and so takes it at once
                self._next = next(self._requests, None)
            except OSError:
                self._fail(_gone(worker))
            except Exception as error:  # a request or plan that cannot be made: told where its result is waited for
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._failed = self._failed or error
        self._state.notify_all()

    def _read(self) -> None:
        """In a thread of its own: takes over what workers send as soon as they send it, so that none of them waits."""
        worker: _Worker | None = None
        try:
            if self._device is not None:
                torch.cuda.set_device(self._device)
            with selectors.DefaultSelector() as selector:
                for worker in self._workers:
                    selector.register(worker.socket, selectors.EVENT_READ, worker)
                while not self._closed:
                    for key, _ in selector.select():
                        worker = key.data
                        self._put(worker, *receive(worker.socket, self._pinned))
        except Exception as error:  # told where the result is waited for
            with self._state:
                lost = isinstance(error, EOFError | ConnectionError) and worker is not None and not self._closed
                self._fail(_gone(worker) if lost and worker else UserError(f"prepared samples cannot be taken over: {_line(error)}"))

    def _put(self, worker: _Worker, value: Any, size: int) -> None:
        with self._state:
            number, kind = self._busy.pop(worker)
            self._largest[kind] = max(size, self._largest.get(kind, 0))
            self._ready[number] = value, size
            self._idle.append(worker)
            self._deal()
            self._state.notify_all()

    def close(self) -> None:
        """Ends the workers, whatever they do."""
        atexit.unregister(self.close)
        self._closed = True
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join(5)
        if self._reader is not None:
            self._reader.join(5)  # each end of a socket that is gone wakes it
        for worker in self._workers:
            worker.socket.close()
        self._workers = []


def _started(carry_out: Callable[[Any], Any], number: int, others: Sequence[socket.socket]) -> _Worker:
    ours, theirs = socket.socketpair()
    inherited = [ours, *others] if _CONTEXT.get_start_method() == "fork" else []
    seed = torch.initial_seed() + number
    process: BaseProcess = _CONTEXT.Process(target=_work, args=(theirs, inherited, carry_out, seed), name=f"worker {number}", daemon=True)
    try:
        process.start()
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()  # then the end of the worker is the end of the stream
    return _Worker(process, ours)


def _work(requests: socket.socket, inherited: Sequence[socket.socket], carry_out: Callable[[Any], Any], seed: int) -> None:
    """A worker's life. It ends with its process and not before: a scheduler sends its signals to every process of a job."""
    for stop in {signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGUSR1", signal.SIGTERM)}:
        signal.signal(stop, signal.SIG_IGN)
    die_with_parent()
    for other in inherited:
        other.close()
    torch.set_num_threads(1)
    _seed(seed)
    while True:
        try:
            request, _ = receive(requests)
        except (EOFError, OSError):
            return
        try:
            packed = Packed(carry_out(request))
        except Exception as error:  # anything that a data set of a third party raises
            packed = Packed(Failure.of(error))
        packed.send(requests)
        del packed, request  # a micro-batch may be hundreds of MB, and the next one is made meanwhile


def _line(error: Exception) -> str:
    """What the exception says, on one line."""
    return " ".join(str(error).split())[:500]


def _seed(seed: int) -> None:
    """For what draws from the global generators, against the contract: at least not the same in every worker."""
    import numpy as np

    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def _gone(worker: _Worker) -> UserError:
    worker.process.join(5)
    code, pid = worker.process.exitcode, worker.process.pid
    how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with exit code {code}"
    advice = "Mostly the memory is too small: lower train.workers or train.prefetch_gib"
    return UserError(f"a process that loads data is gone (process {pid} {how}); {RESUME}. {advice}")
