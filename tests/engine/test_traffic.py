"""What is sent in an update: one sum of all loops' gradients over ranks, and a few numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from core.engine import building
from core.engine.parallel.exchange import join
from core.recipe import Recipe, load, resolved_yaml
from core.registry import Registry
from tests.engine.distributed_worker import start_ranks
from tests.patience import HANGS_S

UPDATES = 2
COLLECTIVES = ("all_reduce", "all_gather", "all_gather_into_tensor", "reduce", "reduce_scatter_tensor", "broadcast", "send", "gather")


def counted(recipe: str, out: str) -> None:
    """A rank: writes each message of the updates as (collective, its tensor's bytes), and how many numbers are trained."""
    values = load(Path(recipe))
    ranks = join(values.values["launch"])
    run = building.build_run(values, Registry(), Path(out), None, ranks)
    sent: list[tuple[str, int]] = []

    def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*given: Any, **named: Any) -> Any:
            own = given[-1] if name == "all_gather" else given[0]  # the list of results stands before what a rank gives
            sent.append((name, own.nbytes))
            return call(*given, **named)

        return watch

    kept = {name: getattr(dist, name) for name in COLLECTIVES}
    for name, call in kept.items():
        setattr(dist, name, watched(name, call))
    for number in range(UPDATES):
        run.trainer.update(number)
    for name, call in kept.items():
        setattr(dist, name, call)
    parameters = [parameter for members in run.trainer.strategy.groups.values() for _, parameter in members]
    found = {"sent": sent, "trained": sum(p.numel() for p in parameters), "parameters": len(parameters)}
    (Path(out) / f"rank{ranks.rank}.json").write_text(json.dumps(found))
    ranks.leave()


def test_an_update_sends_its_gradients_once_and_some_numbers(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = tiny(
        "train={updates: 2, batch_size: 2, accumulate: 2, clip_norm: 1.0}",
        f"launch={{strategy: ddp, processes: 2, device: cpu, timeout_s: {HANGS_S}}}",
    )
    (tmp_path / "recipe.yaml").write_text(resolved_yaml(recipe, Registry()))
    start_ranks(2, counted, str(tmp_path / "recipe.yaml"), str(tmp_path))
    for rank in (0, 1):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text())
        large = [(name, size) for name, size in found["sent"] if name != "all_gather"]
        # of two loops: each gradient, and a flag for each parameter that a loss reached
        rows = 2 * (found["trained"] + found["parameters"]) * torch.float32.itemsize
        assert large == [("all_reduce", rows)] * UPDATES
        numbers = [size for name, size in found["sent"] if name == "all_gather"]
        # before and after each loop's backward passes: its counts, its losses and metrics; then rank 0's weights of the loops, and its
        # norm; each as a length and a text
        assert len(numbers) == UPDATES * (2 * 2 + 2) * 2
        assert sum(numbers) < UPDATES * 8192
