"""Kills a short run at random instants, resumes it until it is done, and compares it with an unbroken run.

    python -m tests.engine.chaos --kills 30 [--processes 2] [--seed 0]

Each attempt is forked (``tests.engine.children``), so that kills hit the training and not an import. ``--processes 2`` kills one of two
ranks, or both. One kill in five hits an evaluation between updates; one attempt in six meets a second command that resumes the same run,
and as many a full disk (as root, on a small file system of its own). At the end the weights, the optimizer, the teacher and every logged
number must be those of the unbroken run, and no update may be logged twice.

Nothing depends on how fast the machine is: instants are drawn as shares of what the unbroken run took here, and nothing waits by the clock.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.engine.chaos_runs import Started, newest, require_equal, run_in, write_recipe

LOOKS_S = 0.02  # between two looks at what a run has reached


@dataclass
class Campaign:
    """What was done to the runs of one recipe."""

    recipe: Path
    runs: Path
    processes: int
    draw: random.Random
    full_disks: bool  # whether ``runs`` is a file system of its own that may be filled
    tensors: int = 0
    reached: list[int] = field(default_factory=list)  # the last checkpoint at each kill
    while_evaluating: int = 0  # kills
    seconds: int = 0  # commands that were refused because another trained the run
    full: int = 0  # attempts that met a full disk
    to_first_s: float = 0.0  # what the unbroken run took here to its first checkpoint
    update_s: float = 0.0  # and for each update after it
    started: list[Started] = field(default_factory=list)  # the commands that were started last

    def go(self, kills: int) -> Campaign:
        """Raises AssertionError where a run ends otherwise than unbroken."""
        self.runs.mkdir(parents=True, exist_ok=True)
        whole = self._unbroken()
        while len(self.reached) < kills:
            output = self.runs / f"broken-{len(self.reached)}"  # a run may be done before it was killed often enough: then another one
            while not self._attempt(output, kills):
                pass
            self.tensors = require_equal(whole, next(output.iterdir()))
            print(f"a run came to its end equal to the unbroken one; {len(self.reached)} kills so far", flush=True)
            shutil.rmtree(output)
        return self

    def _unbroken(self) -> Path:
        began = time.monotonic()
        command = self._start(self.runs / "whole")
        wait_for(self.runs / "whole", 0, command)
        self.to_first_s = time.monotonic() - began
        assert command.codes() == [0] * self.processes, command.said()
        run = run_in(self.runs / "whole")
        assert run
        self.update_s = (time.monotonic() - began - self.to_first_s) / newest(run)
        return run

    def _start(self, output: Path, name: str = "first") -> Started:
        """Starts the run in ``output``, or resumes it."""
        resume = ["--resume"] if run_in(output) else []
        started = Started(self.recipe, [f"output={output}", *resume], self.processes, self.recipe.with_name(f"{name}.log"))
        self.started = [one for one in self.started if any(rank.is_alive() for rank in one.ranks)] + [started]
        return started

    def stop(self) -> None:
        """Ends what still runs, such as after Ctrl-C."""
        for command in self.started:
            command.kill()

    def _attempt(self, output: Path, kills: int) -> bool:
        """Starts or resumes the run in ``output`` and does something to it; whether it came to its end."""
        before = newest(run_in(output))
        what = self.draw.choice(["kill"] * 4 + ["second"] + ["full" if self.full_disks else "kill"])
        if what == "full":
            return self._on_a_full_disk(output, before)
        command, killed = self._start(output), False
        if what == "second":
            wait_for(output, before, command)
            self._second(output, command)
        if len(self.reached) < kills:
            killed = self._kill(output, before, command)
        if command.codes() == [0] * self.processes:
            return True
        assert killed, (command.codes(), command.said())
        now = newest(run_in(output))
        assert now >= before, f"a checkpoint was lost: {now} after {before}"
        self.reached.append(now)
        if len(self.reached) % 10 == 0:
            print(f"{len(self.reached)} of {kills} kills", flush=True)
        return False

    def _kill(self, output: Path, before: int, command: Started) -> bool:
        """Kills some ranks, in one case of five while the run evaluates; whether any of them was still alive.

        One in four of the others anywhere from the first instant, the rest some instants after the next checkpoint.
        """
        when, evaluating = self.draw.random(), False
        instants = self.draw.random()
        if when < 0.2:
            while not (evaluating := command.evaluating.exists()) and command.alive:
                time.sleep(LOOKS_S)
            time.sleep(instants * self.update_s / 10)
        elif when < 0.8:
            wait_for(output, before, command)
            time.sleep(instants * 2 * self.update_s)
        else:
            time.sleep(instants * self.to_first_s)
        killed = False
        for rank in self.draw.choice([command.ranks, *([rank] for rank in command.ranks)]):
            if rank.is_alive():
                with suppress(ProcessLookupError):  # it came to its end since the line above
                    os.kill(rank.pid or 0, signal.SIGKILL)
                    killed = True
        if killed and not command.together:  # who waits for a rank that never comes would do so for as long as the recipe allows
            command.kill()
        self.while_evaluating += killed and evaluating and command.evaluating.exists()
        return killed

    def _second(self, output: Path, first: Started) -> None:
        """Another command resumes the run while it trains: it is refused in one sentence, and the first one goes on."""
        if not first.alive:
            return
        second = self._start(output, "second")
        code = second.codes()[0]
        if code == 2 and "trains it" in second.said():
            self.seconds += 1
            return
        # the first one has come to its end before the second one looked
        assert code == 0, (second.codes(), second.said())
        assert first.codes() == [0] * self.processes, (first.codes(), first.said())

    def _on_a_full_disk(self, output: Path, before: int) -> bool:
        """An attempt with little room on the disk: it ends with a sentence and loses no checkpoint."""
        ballast = self.runs / "ballast"
        with ballast.open("wb") as file, suppress(OSError):
            free = shutil.disk_usage(self.runs).free
            file.write(bytes(max(0, free - int(self.draw.uniform(0, 6) * 2**20))))
        command = self._start(output)
        codes = command.codes()
        ballast.unlink()
        if codes == [0] * self.processes:
            return True
        assert codes[0] == 2, (codes, command.said())
        assert newest(run_in(output)) >= before
        self.full += 1
        return False


def wait_for(output: Path, before: int, command: Started) -> None:
    """Until the run has written a checkpoint beyond ``before``, or a rank has ended."""
    while command.alive and newest(run_in(output)) <= before:
        time.sleep(LOOKS_S)


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Makes ``folder`` a file system of its own that may be filled, where this user may; whether it is one."""
    folder.mkdir()
    mounted = (
        os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", folder], check=False).returncode == 0
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)  # a process just killed may not have let go of it yet


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.engine.chaos", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--processes", type=int, default=1, choices=(1, 2))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # the small file system is given back then, too
    with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder) / "runs") as full_disks:
        os.environ.setdefault("DUALLOOP_CACHE", f"{folder}/indices")
        began = time.monotonic()
        recipe = write_recipe(Path(folder), given.processes)
        done = Campaign(recipe, Path(folder) / "runs", given.processes, random.Random(given.seed), full_disks)
        try:
            done.go(given.kills)
        finally:
            done.stop()
    print(f"{len(done.reached)} kills of {given.processes} process(es) in {time.monotonic() - began:.0f} s, seed {given.seed}")
    print(f"{done.while_evaluating} of them during an evaluation; {done.seconds} second commands were refused; {done.full} disks were full")
    print(f"last checkpoint at each kill: {done.reached}")
    print(f"all {done.tensors} tensors of the last checkpoint and all logged numbers are those of the unbroken run, bit for bit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
