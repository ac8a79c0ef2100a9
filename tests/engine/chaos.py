"""Kills a short run at random instants, resumes it until it is done, and compares it with an unbroken run.

    python -m tests.engine.chaos --kills 30 [--processes 2] [--seed 0]

Each attempt is forked (``tests.engine.children``), so that it takes a second or two and most kills hit the training and not an
import. ``--processes 2`` kills one of two ranks, or both. One kill in five hits an evaluation between updates; one attempt in six
meets a second command that resumes the same run, and as many a full disk (as root, on a small file system of its own). At the end the
weights, the optimizer, the teacher and every logged number must be those of the unbroken run, and no update may be logged twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from tests.engine.children import CHILDREN


def attempt(recipe: str, arguments: list[str], environment: dict[str, str], log: str) -> None:
    """The command itself, in a child of the fork server; what it says goes to the file ``log``."""
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.environ |= environment
    from core.commands.run import main

    if marker := environment.get("CHAOS_EVALUATING"):
        _mark_evaluations(Path(marker))

    code = main([recipe, "--quiet", *arguments])
    os._exit(code)


def _mark_evaluations(marker: Path) -> None:
    """While this process evaluates, the file ``marker`` is there."""
    from core.engine import between

    evaluate_all = between.evaluate_all

    def marked(*given: Any) -> Any:
        marker.touch()
        try:
            return evaluate_all(*given)
        finally:
            marker.unlink(missing_ok=True)

    between.evaluate_all = marked


def start(recipe: Path, arguments: list[str], processes: int, log: Path) -> list[BaseProcess]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = []
    for rank in range(processes):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
        environment = {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"} if processes > 1 else {}
        if rank == 0:
            environment["CHAOS_EVALUATING"] = str(log.with_name("evaluating"))
        ranks.append(CHILDREN.Process(target=attempt, args=(str(recipe), arguments, environment, str(log))))
        ranks[-1].start()
    return ranks


def newest(run: Path) -> int:
    from core.engine.checkpoint import list_checkpoints

    return max((update for update, _ in list_checkpoints(run / "checkpoints")), default=0)


def weights(run: Path) -> dict[str, bytes]:
    """All tensors of the last checkpoint."""
    folder = run / "checkpoints" / f"update-{newest(run):06d}"
    files = sorted(folder.glob("*.safetensors"))
    return {f"{file.stem}:{name}": tensor.numpy().tobytes() for file in files for name, tensor in load_file(file).items()}


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
    started: list[BaseProcess] = field(default_factory=list)  # the ranks of the commands that were started last

    @property
    def log(self) -> Path:
        return self.recipe.with_name("log")

    def go(self, kills: int) -> Campaign:
        """Raises AssertionError where a run ends otherwise than unbroken."""
        self.runs.mkdir(parents=True, exist_ok=True)
        whole = self.runs / "whole"
        assert self._ended(self._start(whole, False)) == [0] * self.processes, self.log.read_text()
        while len(self.reached) < kills:
            output = self.runs / f"broken-{len(self.reached)}"  # a run may be done before it was killed often enough: then another one
            while not self._attempt(output, kills):
                pass
            self.tensors = require_equal(next(whole.iterdir()), next(output.iterdir()))
            print(f"a run came to its end equal to the unbroken one; {len(self.reached)} kills so far", flush=True)
            shutil.rmtree(output)
        return self

    def _start(self, output: Path, resume: bool) -> list[BaseProcess]:
        ranks = start(self.recipe, [f"output={output}", *(["--resume"] if resume else [])], self.processes, self.log)
        self.started = [rank for rank in self.started if rank.is_alive()] + ranks
        return ranks

    def stop(self) -> None:
        """Ends what still runs, such as after Ctrl-C."""
        for rank in self.started:
            rank.kill()
            rank.join()

    def _ended(self, ranks: list[BaseProcess]) -> list[int | None]:
        for rank in ranks:
            rank.join()
        return [rank.exitcode for rank in ranks]

    def _attempt(self, output: Path, kills: int) -> bool:
        """Starts or resumes the run in ``output`` and does something to it; whether it came to its end."""
        run = run_in(output)
        before = newest(run) if run else 0
        what = self.draw.choice(["kill"] * 4 + ["second"] + ["full" if self.full_disks else "kill"])
        if what == "full":
            return self._on_a_full_disk(output, before)
        ranks, killed = self._start(output, run is not None), False
        if what == "second":
            wait_for(output, before, ranks)
            self._second(output, ranks)
        if len(self.reached) < kills:
            killed = self._kill(output, before, ranks)
        codes = self._ended(ranks)
        if codes == [0] * self.processes:
            return True
        assert killed, (codes, self.log.read_text()[-2000:])
        now = newest(run) if (run := run_in(output)) else 0
        assert now >= before, f"a checkpoint was lost: {now} after {before}"
        self.reached.append(now)
        if len(self.reached) % 10 == 0:
            print(f"{len(self.reached)} of {kills} kills", flush=True)
        return False

    def _kill(self, output: Path, before: int, ranks: list[BaseProcess]) -> bool:
        """Kills some ranks, in one case of five while the run evaluates; whether any of them was still alive.

        One in four of the others anywhere from the first instant, the rest some instants after the next checkpoint.
        """
        when, marker = self.draw.random(), self.log.with_name("evaluating")
        marker.unlink(missing_ok=True)
        evaluating = False
        if when < 0.2:
            while not (evaluating := marker.exists()) and all(rank.is_alive() for rank in ranks):
                time.sleep(0.005)
        elif when < 0.8:
            wait_for(output, before, ranks)
        time.sleep(self.draw.uniform(0, 0.1 if evaluating else 1.2))
        killed = False
        for rank in self.draw.choice([ranks, *([rank] for rank in ranks)]):
            if rank.is_alive():
                with suppress(ProcessLookupError):  # it came to its end since the line above
                    os.kill(rank.pid or 0, signal.SIGKILL)
                    killed = True
        self.while_evaluating += killed and evaluating and marker.exists()
        return killed

    def _second(self, output: Path, ranks: list[BaseProcess]) -> None:
        """Another command resumes the run while it trains: it is refused in one sentence, and the first one goes on."""
        if run_in(output) is None:
            return
        codes = self._ended(self._start(output, True))
        if all(rank.is_alive() for rank in ranks):
            assert codes[0] == 2, (codes, self.log.read_text()[-2000:])
            assert "trains it since" in self.log.read_text()
            self.seconds += 1

    def _on_a_full_disk(self, output: Path, before: int) -> bool:
        """An attempt with little room on the disk: it ends with a sentence and loses no checkpoint."""
        ballast = self.runs / "ballast"
        with ballast.open("wb") as file, suppress(OSError):
            free = shutil.disk_usage(self.runs).free
            file.write(bytes(max(0, free - int(self.draw.uniform(0, 6) * 2**20))))
        codes = self._ended(self._start(output, run_in(output) is not None))
        ballast.unlink()
        if codes == [0] * self.processes:
            return True
        assert codes[0] == 2, (codes, self.log.read_text()[-2000:])
        assert (newest(run) if (run := run_in(output)) else 0) >= before
        self.full += 1
        return False


def run_in(output: Path) -> Path | None:
    found = next(output.glob("*/recipe.json"), None)
    return found.parent if found else None


def require_equal(unbroken: Path, run: Path) -> int:
    """How many tensors were compared. Raises AssertionError where a tensor or a logged number differs, or an update is logged twice."""
    first, second = weights(unbroken), weights(run)
    assert newest(unbroken) == newest(run)
    assert first.keys() == second.keys()
    different = [name for name in first if first[name] != second[name]]
    assert not different, f"{len(different)} tensors differ, such as {different[:3]}"
    one, other = (logged(folder) for folder in (unbroken, run))
    assert list(one) == list(other), "updates are missing or stand twice"
    wrong = [(update, name) for update, row in one.items() for name in row if row[name] != other[update].get(name)]
    assert not wrong, f"{len(wrong)} logged numbers differ, such as {wrong[:3]}"
    results = [json.loads((folder / "result.json").read_text()) for folder in (unbroken, run)]
    losses = [{key: value for key, value in result.items() if key.endswith(("/loss", "during"))} for result in results]
    assert losses[0] == losses[1], losses
    return len(first)


def logged(run: Path) -> dict[int, dict[str, float]]:
    """Update -> the numbers of its line that do not depend on time; an evaluation made up for has a line of its own."""
    found: dict[int, dict[str, float]] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = {name: value for name, value in json.loads(line).items() if not name.startswith(("time", "memory/"))}
        earlier = found.setdefault(row["update"], {})
        assert not earlier.keys() & row.keys() - {"update"}, f"update {row['update']} stands twice"
        earlier |= row
    return found


def wait_for(output: Path, before: int, ranks: list[BaseProcess]) -> None:
    """Until the run has written a checkpoint beyond ``before``, or has ended."""
    while all(rank.is_alive() for rank in ranks):
        run = next(output.glob("*/recipe.json"), None)
        if run and newest(run.parent) > before:
            return
        time.sleep(0.01)


def write_recipe(folder: Path, processes: int) -> Path:
    """The main recipe on a small untrained model and a small world, with a checkpoint after every update."""
    from core.recipe import load, resolved_yaml
    from core.registry import Registry
    from plugins.datasets.shapes import write_world
    from plugins.models.sa2va.components import Sizes, scratch

    write_world(folder / "world", pictures=60, seed=3, size=64)
    sizes = Sizes(tile=64, vision_width=32, vision_layers=1, llm_width=32, llm_layers=2, sam_size=64, sam_width=32, hiera_width=8)
    scratch(folder=folder / "model", corpus=folder / "world" / "corpus.txt", train=["projector"], sizes=sizes)
    overrides = [
        f"data.world={folder}/world",
        f"model.checkpoint={folder}/model",
        f"train={{updates: 40, batch_size: {2 // processes}, accumulate: 1, clip_norm: 1.0, evaluate: none, evaluate_every: 3}}",
        "checkpoint={every: 1, keep: 2, export: false}",
        "loops.loop1.tasks.pseudo.caption_length=5",
        "loops.loop1.tasks.pseudo.sampler.k=16",
        "track={wandb: null, tensorboard: null}",
        "evaluate.caption=null",
        "evaluate.referring.data.max_samples=4",
        f"launch={{strategy: {'ddp' if processes > 1 else 'single'}, processes: {processes}, timeout_s: 60}}",
    ]
    recipe = load(Path(__file__).parents[2] / "recipes" / "dual_loop_tiny.yaml", overrides)
    (folder / "recipe.yaml").write_text(resolved_yaml(recipe, Registry()))
    return folder / "recipe.yaml"


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
            subprocess.run(["umount", folder], check=True)


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
