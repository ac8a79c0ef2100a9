"""Joins a SLURM job step in which srun has started one task for each process: its names become those of torch.

Names as in srun's manual, "output environment variables". Importing this does not import torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping

from core.cores import cores
from core.engine.launch.devices import set_threads

PORTS = range(20000, 30000)  # for the ranks to meet, below the ephemeral ones


def adopt(environment: MutableMapping[str, str]) -> None:
    """Sets ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``LOCAL_WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``.

    Does nothing where another launcher has set ``RANK``, and outside a step of several tasks: the batch script itself and
    ``srun`` with one task start their own workers.
    """
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if "RANK" in environment or tasks == 1 or "SLURM_PROCID" not in environment:
        return
    one_gpu = environment.get("SLURM_GPUS_PER_TASK") == "1"  # each task sees its own as the first
    node = int(environment.get("SLURM_NODEID", "0"))
    here = tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE", str(tasks)))[node]
    environment.update(
        RANK=environment["SLURM_PROCID"],
        WORLD_SIZE=str(tasks),
        LOCAL_RANK="0" if one_gpu else environment.get("SLURM_LOCALID", "0"),
        LOCAL_WORLD_SIZE="1" if one_gpu else str(here),
    )
    alone = here == tasks  # all tasks are on this node, whose own name need not resolve
    environment.setdefault("MASTER_ADDR", "127.0.0.1" if alone else first_host(environment.get("SLURM_STEP_NODELIST", "localhost")))
    step = int(environment.get("SLURM_JOB_ID", "0")) + 1009 * int(environment.get("SLURM_STEP_ID", "0"))
    environment.setdefault("MASTER_PORT", str(PORTS[step % len(PORTS)]))
    set_threads(environment, _threads(environment, here))


def _threads(environment: Mapping[str, str], here: int) -> int:
    """Of this task, among ``here`` tasks on its node: what ``--cpus-per-task`` says, else all it is bound to, else its share."""
    found = cores()
    if environment.get("SLURM_CPUS_PER_TASK", "").isdigit():
        return min(found, int(environment["SLURM_CPUS_PER_TASK"]))
    bound_alone = environment.get("SLURM_CPU_BIND_TYPE", "").startswith(("mask_cpu", "map_cpu"))
    return found if bound_alone else found // here


def first_host(nodes: str) -> str:
    """``gpu[003-008,011]-ib,login1`` -> ``gpu003-ib``."""
    match = re.match(r"([^,\[]*)(?:\[([^,\-\]]+)[^\]]*\]([^,\[]*))?", nodes)
    assert match  # it matches the empty string
    return "".join(part or "" for part in match.groups())


def tasks_per_node(text: str) -> list[int]:
    """``8(x2),4`` -> ``[8, 8, 4]``."""
    counts: list[int] = []
    for part in text.split(","):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or "1")
    return counts
