"""Joining: SLURM's names, a rank that hangs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed import distributed_c10d

from core.contracts import Gram
from core.engine.launch import LostRank, slurm
from core.engine.parallel.exchange import Group
from core.engine.parallel.strategy import make_strategy
from core.engine.surgery import Surgery
from tests.engine.children import CHILDREN, free_port
from tests.patience import HANGS_S


def test_a_slurm_step_of_several_tasks_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "cores", lambda: 64)
    step = {
        "SLURM_JOB_ID": "4242",
        "SLURM_STEP_ID": "1",
        "SLURM_STEP_NUM_TASKS": "20",
        "SLURM_STEP_NODELIST": "gpu[003-004,011]",
        "SLURM_STEP_TASKS_PER_NODE": "8(x2),4",
        "SLURM_PROCID": "17",
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": "2",
    }
    environment = dict(step)
    slurm.adopt(environment)
    found = {name: value for name, value in environment.items() if name not in step}
    assert found == {
        "RANK": "17",
        "WORLD_SIZE": "20",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "gpu003",
        "MASTER_PORT": "25251",
        "OMP_NUM_THREADS": "16",
        "DUALLOOP_THREADS": "16",
    }
    own = step | {"SLURM_GPUS_PER_TASK": "1", "MASTER_PORT": "29500"}  # each task sees its own GPU as the first
    slurm.adopt(own)
    assert (own["LOCAL_RANK"], own["LOCAL_WORLD_SIZE"], own["MASTER_PORT"]) == ("0", "1", "29500")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"},  # the batch script itself
        {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},  # srun with one task, which starts its own workers
        {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "RANK": "3"},  # srun torchrun
    ],
)
def test_where_nothing_is_to_be_joined(environment: dict[str, str]) -> None:
    given = dict(environment)
    slurm.adopt(environment)
    assert environment == given


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n7,n9", "n7"), ("gpu[003-008,011]-ib,login1", "gpu003-ib"), ("a[5],b[1-2]", "a5"), ("10.0.0.1", "10.0.0.1")],
)
def test_the_first_host_of_a_node_list(nodes: str, first: str) -> None:
    assert slurm.first_host(nodes) == first


def limit(ranks: Group, seconds: int) -> None:
    """Changes the time limit of ranks that have met: how long it takes them to meet depends on how busy the machine is."""
    assert distributed_c10d._get_default_group()._get_backend(torch.device("cpu")).options._timeout == timedelta(seconds=ranks.timeout_s)
    ranks.timeout_s = seconds
    distributed_c10d._set_pg_timeout(timedelta(seconds=seconds), None)


def two(rank: int, port: int, out: Path) -> None:
    """Rank 1 comes to two exchanges and not to the third."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = Group("cpu", timeout_s=HANGS_S, what_remains="what was done stands")
    ranks.gather(rank)
    ranks.total({"a": rank})
    limit(ranks, 2)
    if rank == 1:
        while not (out / "told").exists():
            time.sleep(0.05)
        os._exit(0)
    try:
        ranks.gather("where are you")
    except LostRank as error:
        (out / "told.part").write_text(str(error))
        (out / "told.part").rename(out / "told")
    os._exit(0)


def together(target: Callable[[int, int, Path], None], folder: Path) -> None:
    """Calls ``target(rank, port, folder)`` in two processes."""
    port = free_port()
    processes = [CHILDREN.Process(target=target, args=(rank, port, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(HANGS_S)


def test_a_rank_that_hangs_is_named_after_the_timeout(tmp_path: Path) -> None:
    together(two, tmp_path)
    told = (tmp_path / "told").read_text()
    assert told.startswith("rank 0 lost the other ranks while exchanging numbers (")
    assert "rank 1 has been silent for launch.timeout_s=2 seconds, since exchanging numbers. What was done stands" in told


def sharded(rank: int, port: int, out: Path) -> None:
    """Rank 0 computes both layers twice and one once more, rank 1 one of them once and in other order; then rank 1 falls silent."""
    from core.engine.parallel.shard import shard_frozen

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = Group("cpu", timeout_s=HANGS_S)
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3, bias=False)]).requires_grad_(False)
    whole = [layer.weight.clone() for layer in layers]
    shard_frozen(nn.ModuleDict({"layers": layers}), ranks)
    x = torch.ones(1, 3)
    for number in ([0, 1, 0, 1, 1], [1])[rank]:
        torch.testing.assert_close(layers[number](x) - (0 if number else layers[0](0 * x)), x @ whole[number].T)
    (out / f"exchanges{rank}").write_text(f"{len(ranks.gather(rank))} {ranks.exchanges}")
    limit(ranks, 2)
    if rank == 1:
        while not (out / "told").exists():
            time.sleep(0.05)
        os._exit(0)
    try:
        layers[0](x)
    except LostRank as error:
        (out / "told.part").write_text(str(error))
        (out / "told.part").rename(out / "told")
    os._exit(0)


def test_ranks_may_need_different_layers_and_a_silent_one_is_named(tmp_path: Path) -> None:
    together(sharded, tmp_path)
    first, second = ((tmp_path / f"exchanges{rank}").read_text() for rank in (0, 1))
    assert first == second
    assert "rank 1 has been silent for launch.timeout_s=2 seconds, since exchanging numbers" in (tmp_path / "told").read_text()


class Rounding:
    """A gradient op that rounds otherwise on each rank, as another GPU might."""

    def __init__(self, rank: int) -> None:
        self.rank, self.calls = rank, 0

    def weights(self, gram: Gram) -> torch.Tensor:
        self.calls += 1
        return gram.scales.repeat(len(gram.groups), 1) * (1 + self.rank / 3)


def drifting(rank: int, port: int, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    weight, plain = nn.Parameter(torch.zeros(3)), nn.utils.get_total_norm
    groups = {"group": [("weight", weight)]}
    strategy = make_strategy({"strategy": "ddp"}, groups, torch.optim.SGD([weight], 0.7), 0.5, Group("cpu", HANGS_S), 2)
    surgery = Surgery(Rounding(rank))
    nn.utils.get_total_norm = lambda *given: plain(*given) * (1 + rank / 7)  # type: ignore[assignment]
    for number in range(2):
        gradients = {}
        for name, factor in (("one", 0.3), ("two", -1.7)):
            with strategy.gradient() as gradients[name]:
                strategy.backward((weight * torch.tensor([1.0, factor, rank])).sum())
        assert surgery.step(strategy, gradients, {"one": 1.0, "two": 0.1}, number, {})
    strategy.check_agreement("in the end")
    (out / f"weight{rank}").write_text(f"{weight.tolist()} {surgery.op.calls}")
    strategy.exchange.leave()
    os._exit(0)


def test_all_ranks_step_with_the_surgery_weights_and_the_norm_of_rank_0(tmp_path: Path) -> None:
    together(drifting, tmp_path)
    first, second = ((tmp_path / f"weight{rank}").read_text() for rank in (0, 1))
    assert first == second
    assert first.endswith(" 2")
