"""Two real processes for the kits: they test that ranks agree where they must."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import distributed

T = TypeVar("T")
PATIENCE_S = 120


def in_two_processes(work: Callable[[int], T]) -> list[T]:
    """``[work(0), work(1)]`` from two forked processes in one gloo group, each with a global random state of its own.

    What ``work`` returns travels as a plain pickle. A failure in either process fails here, with its traceback.
    """
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork")
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [fork.Pipe(duplex=False) for _ in range(2)]
        children = [fork.Process(target=_rank, args=(rank, Path(folder) / "meet", pipes[rank][1], work)) for rank in range(2)]
        for child, (_, there) in zip(children, pipes, strict=True):
            child.start()
            there.close()
        try:
            return [_answer(rank, here) for rank, (here, _) in enumerate(pipes)]
        finally:
            for child in children:
                child.kill()
                child.join()


def _answer(rank: int, pipe: Connection) -> T:  # type: ignore[type-var]
    if not pipe.poll(PATIENCE_S):
        pytest.fail(f"rank {rank} has not answered for {PATIENCE_S} s", pytrace=False)
    try:
        good, value = pickle.loads(pipe.recv_bytes())
    except EOFError:
        pytest.fail(f"rank {rank} died", pytrace=False)
    if not good:
        pytest.fail(f"rank {rank} failed:\n{value}", pytrace=False)
    return value


def _rank(rank: int, meet: Path, pipe: Connection, work: Callable[[int], object]) -> None:
    torch.set_num_threads(1)  # the pool of a parent with several threads does not survive the fork
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(rank)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        distributed.init_process_group("gloo", f"file://{meet}", timedelta(seconds=PATIENCE_S), 2, rank)
        answer = pickle.dumps((True, work(rank)))
        distributed.destroy_process_group()
    except BaseException:
        answer = pickle.dumps((False, traceback.format_exc()))
    pipe.send_bytes(answer)
    pipe.close()
