"""Kills a short run at random instants, resumes it until it is done, and compares its weights with an unbroken run's.

    python -m tests.engine.chaos --kills 30 [--processes 2] [--seed 0]

Each attempt is forked (``tests.engine.children``), so that it takes a second or two and most kills hit the training and not an
import. ``--processes 2`` kills one of two ranks, or both.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

from safetensors.torch import load_file

from tests.engine.children import CHILDREN


def attempt(recipe: str, arguments: list[str], environment: dict[str, str], log: str) -> None:
    """The command itself, in a child of the fork server; what it says goes to the file ``log``."""
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.environ |= environment
    from core.commands.run import main

    code = main([recipe, "--quiet", *arguments])
    os._exit(code)


def start(recipe: Path, arguments: list[str], processes: int, log: Path) -> list[BaseProcess]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = []
    for rank in range(processes):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
        environment = {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"} if processes > 1 else {}
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


def campaign(recipe: Path, runs: Path, kills: int, processes: int, seed: int) -> tuple[int, list[int]]:
    """(tensors compared, checkpoint reached at each kill). Raises AssertionError where a run ends otherwise than unbroken."""
    draw, log = random.Random(seed), runs / "log"
    runs.mkdir(parents=True, exist_ok=True)
    whole = start(recipe, [f"output={runs}/whole"], processes, log)
    for rank in whole:
        rank.join()
    assert all(rank.exitcode == 0 for rank in whole), log.read_text()
    reached: list[int] = []
    while len(reached) < kills:
        output = runs / f"broken-{len(reached)}"  # a run may be done before it was killed often enough: then another one
        begun = False
        while True:
            ranks = start(recipe, [f"output={output}", *(["--resume"] if begun else [])], processes, log)
            run = next(output.glob("*/recipe.json"), None)
            before = newest(run.parent) if run else 0
            if len(reached) < kills:
                # one in four anywhere from the first instant; the others some instants after the next checkpoint
                if draw.random() < 0.75:
                    wait_for(output, before, ranks)
                time.sleep(draw.uniform(0, 1.2))
                victims = draw.choice([ranks, *([rank] for rank in ranks)])
                alive = [rank for rank in victims if rank.is_alive()]
                for rank in alive:
                    with suppress(ProcessLookupError):  # it came to its end since the line above
                        os.kill(rank.pid or 0, signal.SIGKILL)
            for rank in ranks:
                rank.join()
            codes = [rank.exitcode for rank in ranks]
            run = next(output.glob("*/recipe.json"), None)
            begun = run is not None
            if all(code == 0 for code in codes):
                break
            assert any(code == -signal.SIGKILL for code in codes), (codes, log.read_text()[-2000:])
            now = newest(run.parent) if run else 0
            assert now >= before, f"a checkpoint was lost: {now} after {before}"
            reached.append(now)
        assert run
        unbroken = next((runs / "whole").iterdir())
        first, second = weights(unbroken), weights(run.parent)
        assert newest(unbroken) == newest(run.parent)
        assert first.keys() == second.keys()
        different = [name for name in first if first[name] != second[name]]
        assert not different, f"{len(different)} tensors differ, such as {different[:3]}"
    return len(first), reached


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
        f"train={{updates: 40, batch_size: {2 // processes}, accumulate: 1, clip_norm: 1.0, evaluate: none}}",
        "checkpoint={every: 1, keep: 2, export: false}",
        "loops.loop1.tasks.pseudo.caption_length=5",
        "loops.loop1.tasks.pseudo.sampler.k=16",
        "track={wandb: null, tensorboard: null}",
        "evaluate={referring: null, caption: null}",
        f"launch={{strategy: {'ddp' if processes > 1 else 'single'}, processes: {processes}, timeout_s: 60}}",
    ]
    recipe = load(Path(__file__).parents[2] / "recipes" / "dual_loop_tiny.yaml", overrides)
    (folder / "recipe.yaml").write_text(resolved_yaml(recipe, Registry()))
    return folder / "recipe.yaml"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.engine.chaos", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--processes", type=int, default=1, choices=(1, 2))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("DUALLOOP_CACHE", f"{folder}/indices")
        began = time.monotonic()
        recipe = write_recipe(Path(folder), given.processes)
        tensors, reached = campaign(recipe, Path(folder) / "runs", given.kills, given.processes, given.seed)
    print(f"{len(reached)} kills of {given.processes} process(es) in {time.monotonic() - began:.0f} s, seed {given.seed}")
    print(f"last checkpoint at each kill: {reached}")
    print(f"all {tensors} tensors of the last checkpoint are those of the unbroken run, bit for bit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
