"""Ranks for the tests of several processes.

A case is {"recipe", "launch", "updates", "out"} and perhaps "corrupt", "last", "layers", "resume". It is built as the runner builds
it, from the checkpoint ``last`` if given, and updated; the main rank writes a checkpoint into the folder ``out``. With
``resume``, a run folder, the runner itself carries the recipe out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

from core.contracts import UserError
from core.engine import building, checkpoint, runner
from core.engine.parallel.arena import Arena
from core.engine.parallel.exchange import Exchange, Group, join
from core.engine.parallel.strategy import Strategy
from core.recipe import load
from core.registry import Registry
from tests.engine.children import CHILDREN, free_port
from tests.patience import HANGS_S

Case = dict[str, Any]


def on_ranks(world: int, cases: list[Case]) -> None:
    """Carries the cases out, one after the other, on ``world`` processes."""
    start_ranks(world, be_rank, cases)


def start_ranks(world: int, target: Callable[..., None], *arguments: object) -> None:
    """Calls ``target(*arguments)`` in ``world`` processes that find each other; all must end well."""
    port = free_port()
    ranks = [CHILDREN.Process(target=_call, args=(rank, world, port, target, arguments)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(HANGS_S)
    ends = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()  # one that hangs would disturb the tests that follow
    assert ends == [0] * world


def _call(rank: int, world: int, port: int, target: Callable[..., None], arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in numbers.items()} | {"MASTER_ADDR": "127.0.0.1"}
    target(*arguments)


def check_zero() -> None:
    """Stages 1 and 2 pass their self-test and skip what is not finite; a reduction that is off by a percent is noticed."""
    import deepspeed

    from core.engine.parallel import zero as module

    ranks = Group("cpu", HANGS_S)
    right = module.ZeroStep.backward
    for stage in (1, 2):
        module.self_test(ranks, stage, "cpu")
        assert deepspeed.comm.comm.cdb.shm_comm_op is None, "an extension was compiled"
        weight = torch.nn.Parameter(torch.ones(3))
        groups, optimizer = {"g": [("w", weight)]}, torch.optim.AdamW([weight], lr=0.1)
        zero = Strategy(groups, ranks, Arena(groups, ranks, 1), module.ZeroStep(groups, optimizer, stage), 1.0)
        seen = []
        for scale in (1.0, float("nan"), 1.0):
            with zero.gradient() as gradient:
                zero.backward(weight.square().sum() * scale)
            zero.reduce([gradient])
            if not zero.step([gradient], torch.ones(1, 1, dtype=torch.float64)) < 1e9:
                zero.drop([gradient])
            seen.append(weight.detach().clone())
        assert torch.equal(seen[0], seen[1])
        assert float(seen[1].sub(seen[2]).min()) > 0.05  # the NaN has left nothing behind
        module.ZeroStep.backward = lambda self, loss: right(self, loss * 1.01)
        with pytest.raises(UserError, match=rf"deepspeed \S+ with launch\.zero_stage={stage} makes other updates of a toy model"):
            module.self_test(ranks, stage, "cpu")
        module.ZeroStep.backward = right
    ranks.leave()


def be_rank(cases: list[Case]) -> None:
    if "resume" in cases[0]:
        [case] = cases
        assert runner.run(load(Path(case["recipe"])), Registry(), resume=Path(case["resume"]), quiet=True) == 0
        return
    ranks = join(load(Path(cases[0]["recipe"])).values["launch"])
    for case in cases:
        carry_out(case, ranks)
    ranks.leave()


def carry_out(case: Case, ranks: Exchange) -> None:
    out, given = Path(case["out"]), _watched_layers() if "layers" in case else []
    run = building.build_run(load(Path(case["recipe"])), Registry(), out, case.get("last") and Path(case["last"]), ranks)
    for number in range(run.start, case["updates"]):
        run.trainer.update(number)
    strategy = run.trainer.strategy
    strategy.check_agreement("in the test")
    optimizer = strategy.stepper.gathered_state()
    if ranks.main:
        checkpoint.save(out, case["updates"], strategy.groups, optimizer, run.teacher, {}, 1)
    if "layers" in case:
        (out / f"layers{ranks.rank}").write_text(json.dumps(_frozen_bytes(run) | {"given": len(given)}))
    if "corrupt" in case:
        if case["corrupt"] == ranks.rank:
            with torch.no_grad():
                next(iter(strategy.groups.values()))[0][1].view(-1)[0] += 1e-6
        try:
            strategy.check_agreement("after update 7")
        except UserError as error:
            (out / f"rank{ranks.rank}").write_text(str(error))


def _watched_layers() -> list[int]:
    """Fills with the layers that this rank helps to gather without needing them."""
    from core.engine.parallel.shard import Rounds

    given, give = [], Rounds._give

    def watch(self: Rounds, number: int) -> None:
        given.append(number)
        give(self, number)

    Rounds._give = watch  # type: ignore[method-assign]
    return given


def _frozen_bytes(run: runner.Run) -> dict[str, int]:
    """Of the frozen weights: all of them, those of sharded layers, and what this rank holds of these."""
    frozen = [p for p in run.model.parameters() if not p.requires_grad]  # type: ignore[attr-defined]
    sharded = [p for p in frozen if isinstance(p, DTensor)]
    return {
        "frozen": sum(p.numel() for p in frozen),
        "whole": sum(p.numel() for p in sharded),
        "held": sum(p.to_local().numel() for p in sharded),
    }
