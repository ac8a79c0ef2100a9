"""The runs of ``tests.engine.chaos``: their recipe, their processes, what stands in their folders, and whether two ended alike."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from tests.engine.children import CHILDREN, free_port
from tests.patience import HANGS_S


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
        f"launch={{strategy: {'ddp' if processes > 1 else 'single'}, processes: {processes}, timeout_s: {HANGS_S}}}",
    ]
    recipe = load(Path(__file__).parents[2] / "recipes" / "dual_loop_tiny.yaml", overrides)
    (folder / "recipe.yaml").write_text(resolved_yaml(recipe, Registry()))
    return folder / "recipe.yaml"


class Started:
    """The ranks of one command, forked with everything imported. What they say goes to the file ``log``."""

    def __init__(self, recipe: Path, arguments: Sequence[str], processes: int, log: Path) -> None:
        self.log, self.evaluating = log, log.with_suffix(".evaluating")
        self._together = log.with_suffix(".together")
        for old in (log, self.evaluating, self._together):
            old.unlink(missing_ok=True)
        port = free_port()
        self.ranks: list[BaseProcess] = []
        for rank in range(processes):
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
            environment = {name: str(value) for name, value in names.items()} if processes > 1 else {}
            given = (str(recipe), list(arguments), environment, str(log), rank == 0)
            self.ranks.append(CHILDREN.Process(target=_be_rank, args=given))
            self.ranks[-1].start()

    @property
    def alive(self) -> bool:
        """Whether all ranks are."""
        return all(rank.is_alive() for rank in self.ranks)

    @property
    def together(self) -> bool:
        """Whether the ranks have met, so that one notices the end of another; before, it waits for it as long as the recipe allows."""
        return len(self.ranks) == 1 or self._together.exists()

    def codes(self) -> list[int | None]:
        """The exit codes, once all have ended."""
        for rank in self.ranks:
            rank.join()
        return [rank.exitcode for rank in self.ranks]

    def kill(self) -> None:
        for rank in self.ranks:
            rank.kill()
            rank.join()

    def said(self) -> str:
        return self.log.read_text()[-2000:] if self.log.exists() else ""


def _be_rank(recipe: str, arguments: list[str], environment: dict[str, str], log: str, main: bool) -> None:
    """The command itself, in a child of the fork server."""
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.environ |= environment
    import torch

    from core.commands import run

    torch.set_num_threads(1)
    if main:
        _mark(Path(log))
    code = run.main([recipe, "--quiet", *arguments])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _mark(log: Path) -> None:
    """While this process evaluates, a file says so; another one is there from when its ranks have met."""
    from core.engine import between, runner

    evaluate_all, join, marker = between.evaluate_all, runner.join, log.with_suffix(".evaluating")

    def evaluating(*given: Any) -> Any:
        marker.touch()
        try:
            return evaluate_all(*given)
        finally:
            marker.unlink(missing_ok=True)

    def joining(*given: Any) -> Any:
        exchange = join(*given)
        log.with_suffix(".together").touch()
        return exchange

    between.evaluate_all, runner.join = evaluating, joining


def run_in(output: Path) -> Path | None:
    found = next(output.glob("*/recipe.json"), None)
    return found.parent if found else None


def newest(run: Path | None) -> int:
    """The update of its last checkpoint; 0 where it has none."""
    from core.engine.checkpoint import list_checkpoints

    return max((update for update, _ in list_checkpoints(run / "checkpoints")), default=0) if run else 0


def require_equal(unbroken: Path, run: Path) -> int:
    """How many tensors were compared. Raises AssertionError where a tensor or a logged number differs, or an update is logged twice."""
    first, second = _weights(unbroken), _weights(run)
    assert newest(unbroken) == newest(run)
    assert first.keys() == second.keys()
    different = [name for name in first if first[name] != second[name]]
    assert not different, f"{len(different)} tensors differ, such as {different[:3]}"
    one, other = (_logged(folder) for folder in (unbroken, run))
    assert list(one) == list(other), "updates are missing or stand twice"
    wrong = [(update, name) for update, row in one.items() for name in row if row[name] != other[update].get(name)]
    assert not wrong, f"{len(wrong)} logged numbers differ, such as {wrong[:3]}"
    results = [json.loads((folder / "result.json").read_text()) for folder in (unbroken, run)]
    losses = [{key: value for key, value in result.items() if key.endswith(("/loss", "during"))} for result in results]
    assert losses[0] == losses[1], losses
    return len(first)


def _weights(run: Path) -> dict[str, bytes]:
    """All tensors of the last checkpoint."""
    folder = run / "checkpoints" / f"update-{newest(run):06d}"
    files = sorted(folder.glob("*.safetensors"))
    return {f"{file.stem}:{name}": tensor.numpy().tobytes() for file in files for name, tensor in load_file(file).items()}


def _logged(run: Path) -> dict[int, dict[str, float]]:
    """Update -> the numbers of its line that do not depend on time; an evaluation made up for has a line of its own."""
    found: dict[int, dict[str, float]] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = {name: value for name, value in json.loads(line).items() if not name.startswith(("time", "memory/"))}
        earlier = found.setdefault(row["update"], {})
        assert not earlier.keys() & row.keys() - {"update"}, f"update {row['update']} stands twice"
        earlier |= row
    return found
