"""``core.run --profile N``: a table of the phases of some updates, and a trace of one more, in ``RUN/profile``.

The first update warms up and does not count. Of the next N the time and the memory are measured. One more is made under torch's
profiler, which is slow: it gives the trace and the number of waits. In a shorter run these are the same updates.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from core.contracts import UserError
from core.engine.evaluation import write_whole
from core.engine.phases import Phases, Waits
from core.engine.update import LoopSetup, Trainer

_METHODS = ("encode", "generate", "caption_states", "segment", "masks")  # of the model's contract
FILES = ("profile.txt", "profile.json", "trace.json.gz")


class Profile:
    """Makes the updates of a trainer in place of its own ``update``, as long as there is something to measure."""

    def __init__(self, trainer: Trainer, updates: int, left: int, folder: Path, compiled: bool = False) -> None:
        """``updates`` to be measured, of ``left`` that the run makes; ``folder`` is made. ``compiled``: waits cannot be counted."""
        if updates < 1 or left < 1:
            raise UserError(f"--profile {updates}: it measures one update or more, and the run has {left} left")
        self.trainer, self.folder, self.compiled = trainer, folder, compiled
        first = int(left > updates)
        self.measured = range(first, min(first + updates, left))
        self.traced = min(self.measured.stop, left - 1)
        self.phases = Phases(trainer.device)
        self.waits = Phases(trainer.device)
        self.made = 0  # updates
        self.numbers: list[int] = []  # of the measured updates
        self.warm_up: float | None = None  # seconds of the first update, where it does not count
        self._loop = ""

    @property
    def done(self) -> bool:
        return self.made > self.traced

    def update(self, number: int) -> dict[str, float]:
        """Makes update ``number`` (from 0), measured if it is its turn; what the trainer's own method returns."""
        made, self.made = self.made, self.made + 1
        if made > self.traced:
            return self.trainer.update(number)
        if made == self.traced:
            return self._trace(number, made in self.measured)
        if made not in self.measured:
            values = self.trainer.update(number)
            self.warm_up = values["time/update_s"]
            return values
        return self._measure(number)

    def _measure(self, number: int) -> dict[str, float]:
        values = self._watched(number, self.phases)
        self.numbers.append(number)
        return values

    def _trace(self, number: int, measured: bool) -> dict[str, float]:
        """Under torch's profiler, and with the waits counted; where it is ``measured`` too, its times are larger than without."""
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.trainer.device == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            profiler = stack.enter_context(torch.profiler.profile(activities=activities))
            if not self.compiled:
                stack.enter_context(Waits(self.waits))
            values = self._watched(number, self.waits)
        profiler.export_chrome_trace(str(self.folder / FILES[2]))
        if measured:
            for name, spent in self.waits.spent.items():
                of = self.phases.spent[name]
                of.seconds, of.peak_bytes = of.seconds + spent.seconds, max(of.peak_bytes, spent.peak_bytes)
            self.numbers.append(number)
        return values

    def _watched(self, number: int, phases: Phases) -> dict[str, float]:
        """An update with the parts of the engine and the model's methods in phases of their own."""
        trainer, strategy = self.trainer, self.trainer.strategy
        gradients = trainer._gradients

        def of_loop(loop: LoopSetup, *given: Any) -> Any:
            self._loop = loop.name
            with phases.phase(f"{loop.name} rest"):
                return gradients(loop, *given)

        with ExitStack() as undo:

            def replace(owner: Any, method: str, by: Callable[..., Any]) -> None:
                try:
                    setattr(owner, method, by)
                except AttributeError:  # a component with slots: its time is counted with what calls it
                    return
                undo.callback(delattr, owner, method)

            def watch(owner: Any, method: str, name: Callable[[], str]) -> None:
                replace(owner, method, phases.around(name, getattr(owner, method)))

            replace(trainer, "_gradients", of_loop)
            for loop in trainer.loops.values():
                watch(loop.feed, "update", lambda: f"{self._loop} data")
            for method in _METHODS:
                watch(trainer.model, method, lambda method=method: f"{self._loop} {method}")  # type: ignore[misc]
            watch(strategy, "backward", lambda: f"{self._loop} backward")
            watch(strategy, "reduce", lambda: "sum over ranks")
            watch(strategy, "total", lambda: "numbers over ranks")
            watch(trainer.surgery, "step", lambda: "surgery")
            watch(strategy, "step", lambda: "step")
            if trainer.teacher is not None:
                watch(trainer.teacher, "update", lambda: "teacher")
            with phases.phase("rest"):
                values = trainer.update(number)
        phases.settle()
        return values

    def result(self) -> dict[str, Any]:
        """What was measured, as ``profile.json`` holds it: seconds of an update, GiB, waits of one update."""
        for name in self.waits.spent:
            _ = self.phases.spent[name]  # also what came up in the traced update alone
        count, seconds = len(self.numbers), sum(spent.seconds for spent in self.phases.spent.values())
        counted = bool(self.waits.spent) and not self.compiled
        phases = {
            name: {
                "seconds": spent.seconds / count,
                "share": spent.seconds / seconds if seconds else 0.0,
                "peak_gib": spent.peak_bytes / 2**30,
                "waits": (self.waits.spent[name].waits if name in self.waits.spent else 0) if counted else None,
            }
            for name, spent in self.phases.spent.items()
        }
        return {
            "machine": machine(self.trainer.device),
            "torch": torch.__version__,
            "updates": self.numbers,
            "seconds": seconds / count,
            "warm_up_seconds": self.warm_up,
            "peak_gib": max(phase["peak_gib"] or 0.0 for phase in phases.values()),
            "reserved_gib": self.phases.reserved_bytes / 2**30,
            "beside_gib": beside(self.trainer.device) / 2**30,
            "waits": None if not counted else sum(spent.waits for spent in self.waits.spent.values()),
            "traced_while_measured": self.traced in self.measured,
            "phases": phases,
        }

    def write(self, counted: Mapping[str, Any] | None = None) -> str:
        """Writes the table as text and JSON; returns the text. ``counted``: see ``table``."""
        result = self.result()
        text = table(result, counted)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / FILES[0], text + "\n")
        write_whole(self.folder / FILES[1], json.dumps(result, indent=2) + "\n")
        return text


def machine(device: str) -> str:
    """The GPU's name and memory, or the processor's."""
    if device == "cuda":
        found = torch.cuda.get_device_properties(torch.cuda.current_device())
        return f"{found.name}, {found.total_memory / 2**30:.0f} GiB"
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def beside(device: str) -> int:
    """Bytes of the GPU in use that torch's allocator does not hold: CUDA's context, NCCL's buffers, graphs, and other programs."""
    if device != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text().splitlines()
    except OSError:
        return []


def table(result: Mapping[str, Any], counted: Mapping[str, Any] | None = None) -> str:
    """The phases, one a line. ``counted``: phase -> ``peak_gib`` and ``waits`` that were counted without a GPU, put beside them."""
    width = max(map(len, [*result["phases"], "an update"])) + 2
    beside = f"{'counted GiB':>13}{'counted waits':>15}" if counted is not None else ""
    rows = [f"{'phase':{width}}{'seconds':>9}{'share':>8}{'peak GiB':>10}{'waits':>8}{beside}"]
    whole = {"seconds": result["seconds"], "share": 1.0, "peak_gib": result["peak_gib"], "waits": result["waits"]}
    for name, phase in [*result["phases"].items(), ("an update", whole)]:
        waits = "-" if phase["waits"] is None else phase["waits"]
        row = f"{name:{width}}{phase['seconds']:9.3f}{phase['share']:8.1%}{phase['peak_gib']:10.2f}{waits:>8}"
        if counted is not None:
            other = counted.get(name, {})
            row += f"{_number(other.get('peak_gib')):>13}{other.get('waits', '-'):>15}"
        rows.append(row)
    count, warm = len(result["updates"]), result["warm_up_seconds"]
    rows.append(f"mean of {count} update{'s' if count > 1 else ''} on {result['machine']}, torch {result['torch']}")
    if result.get("reserved_gib"):
        held = f"torch held up to {result['reserved_gib']:.2f} GiB of the GPU for its tensors and the gaps between them"
        rows.append(f"{held}; {result['beside_gib']:.2f} GiB were in use beside")
    if warm is not None:
        rows.append(f"the first update took {warm:.3f} s and does not count")
    if result["traced_while_measured"]:
        rows.append("the last of them was made under the profiler, and took longer for that: a longer run tells them apart")
    return "\n".join(rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
