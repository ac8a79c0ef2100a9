"""Where an update spends its time and memory: a clock that is always in one phase, and a count of the host's waits."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Spent:
    """What one phase took."""

    seconds: float = 0.0
    peak_bytes: int = 0  # the most memory of the process or GPU at any moment of the phase
    waits: int = 0


class Phases:
    """Adds time to the innermost phase that is on. On a GPU it is the GPU's time, measured by events, without waiting for it."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        self.spent: dict[str, Spent] = defaultdict(Spent)
        self.on: list[str] = []
        self.reserved_bytes = 0  # the most that torch's allocator held of the GPU, with the gaps between tensors
        self._last: Any = None
        self._open: list[tuple[str, Any, Any]] = []  # phase, and the events between which it was on

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """In phase ``name``, also in the trace of torch's profiler where one is made."""
        self._mark()
        self.on.append(name)
        try:
            with torch.profiler.record_function(name):
                yield
        finally:
            self._mark()
            self.on.pop()

    def around(self, name: Callable[[], str], call: Callable[..., Any]) -> Callable[..., Any]:
        """``call`` in a phase of its own, whose name is asked for each time."""

        def within(*given: Any, **named: Any) -> Any:
            with self.phase(name()):
                return call(*given, **named)

        return within

    def _mark(self) -> None:
        """What has passed since the last mark is of the phase that is on."""
        now: Any = time.perf_counter()
        if self.cuda:
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        peak = self._peak()
        if self.on:
            spent = self.spent[self.on[-1]]
            spent.peak_bytes = max(spent.peak_bytes, peak)
            if self.cuda:
                self._open.append((self.on[-1], self._last, now))
            else:
                spent.seconds += now - self._last
        self._last = now

    def settle(self) -> None:
        """After an update: waits for the GPU and reads the events."""
        if self.cuda:
            torch.cuda.synchronize()
        for name, begin, end in self._open:
            self.spent[name].seconds += begin.elapsed_time(end) / 1000
        self._open.clear()

    def _peak(self) -> int:
        """The most memory since the last call, in bytes; where the system does not keep it apart, what there is now."""
        if self.cuda:
            peak = torch.cuda.max_memory_allocated()
            self.reserved_bytes = max(self.reserved_bytes, torch.cuda.max_memory_reserved())
            torch.cuda.reset_peak_memory_stats()
            return peak
        try:
            lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
            peak = 1024 * int(lines["VmHWM"].split()[0])  # proc(5): KiB
        except (OSError, KeyError):
            return 0
        with suppress(OSError):
            _CLEAR.write_text("5")  # proc(5): the peak is what there is now
        return peak


#: What the host needs a number from the device for. Boolean indices and copies to the host are added below.
_WAITING = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "masked_scatter_backward",
    "equal",
    "bincount",
    "unique_dim",
    "unique_consecutive",
    "_unique",
    "_unique2",
}


class Waits(TorchDispatchMode):
    """Counts, for the phase that is on, where the host waits for a GPU; on the CPU, where it would.

    On the CPU ``tolist()`` and ``cpu()`` are no operations, so that the count is too small there.
    """

    def __init__(self, phases: Phases) -> None:
        super().__init__()
        self.phases = phases

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch loads its compiler for this, which takes seconds; nothing is compiled under this mode

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if self.phases.on and _waits(function, args, result):
            self.phases.spent[self.phases.on[-1]].waits += 1
        return result


def _waits(function: Any, args: Any, result: Any) -> bool:
    name = function.overloadpacket.__name__
    if name in _WAITING:
        return True
    if name in ("index", "index_put", "index_put_"):  # of boolean indices it needs the count
        return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    if name == "repeat_interleave":
        return function._overloadname == "Tensor"
    if name in ("_to_copy", "copy_") and isinstance(result, Tensor):
        source = args[1] if name == "copy_" else args[0]
        return isinstance(source, Tensor) and source.is_cuda and not result.is_cuda
    return False
