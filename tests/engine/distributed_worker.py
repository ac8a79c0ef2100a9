"""Ranks for the tests of several processes.

A case is {"recipe", "launch", "updates", "out"} and perhaps "corrupt", "last", "resume". It is built as the runner builds
it, from the checkpoint ``last`` if given, and updated; the main rank writes a checkpoint into the folder ``out``. With
``resume``, a run folder, the runner itself carries the recipe out.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import torch

from core.contracts import UserError
from core.engine import checkpoint, runner
from core.engine.ranks import Ranks, join
from core.recipe import load
from core.registry import Registry

Case = dict[str, Any]


def on_ranks(world: int, cases: list[Case]) -> None:
    """Carries the cases out, one after the other, on ``world`` processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=be_rank, args=(rank, world, port, cases)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=280)
    assert [process.exitcode for process in ranks] == [0] * world


def be_rank(rank: int, world: int, port: int, cases: list[Case]) -> None:
    torch.set_num_threads(1)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in numbers.items()} | {"MASTER_ADDR": "127.0.0.1"}
    if "resume" in cases[0]:
        [case] = cases
        assert runner.run(load(Path(case["recipe"])), Registry(), resume=Path(case["resume"]), quiet=True) == 0
        return
    ranks = join(load(Path(cases[0]["recipe"])).values["launch"])
    for case in cases:
        carry_out(case, ranks)
    ranks.leave()


def carry_out(case: Case, ranks: Ranks) -> None:
    out = Path(case["out"])
    run = runner._build(load(Path(case["recipe"])), Registry(), out, case.get("last") and Path(case["last"]), ranks)
    for number in range(run.start, case["updates"]):
        run.trainer.update(number)
    strategy = run.trainer.strategy
    strategy.check_agreement("in the test")
    optimizer = strategy.whole_optimizer()
    if ranks.main:
        checkpoint.save(out, case["updates"], strategy.groups, optimizer, run.teacher, {"updates_of_rate": case["updates"]}, 1)
    if "corrupt" in case:
        if case["corrupt"] == ranks.rank:
            with torch.no_grad():
                next(iter(strategy.groups.values()))[0][1].view(-1)[0] += 1e-6
        try:
            strategy.check_agreement("after update 7")
        except UserError as error:
            (out / f"rank{ranks.rank}").write_text(str(error))
