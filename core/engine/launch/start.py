"""Starts the worker processes of a run on this machine, and ends with the first failing worker's words and exit code.

Workers are the same command again; under torchrun or in a SLURM step of several tasks nothing is started. Importing
this module does not import torch.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from core.contracts import UserError
from core.engine.launch import slurm, stopping
from core.engine.launch.reporting import LAUNCHER, RESUME, report_crash
from core.engine.launch.stopping import Stopped
from core.installed.starting import module_options

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def cannot_start(launch: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why this machine cannot carry ``launch`` out: (the key that it is about, a sentence); None if it can."""
    if launch["strategy"] == "single" and launch["processes"] > 1:
        message = f"launch.processes={launch['processes']} needs launch.strategy=ddp, deepspeed or fsdp2; single is one process"
        return "processes", message
    if launch["device"] != "cuda":
        return None
    asked, found = int(os.environ.get("LOCAL_WORLD_SIZE", launch["processes"])), gpus()
    here = "launch.strategy=single launch.processes=1 launch.device=cpu runs it here"
    return ("device", f"launch asks for {asked} GPUs, {found} found; {here}") if found < asked else None


def gpus() -> int:
    """How many GPUs there are. Where Linux has no device file of one, torch need not be loaded to say so."""
    files = ("nvidia[0-9]*", "kfd", "dxg", "nvhost*")  # of CUDA, ROCm, WSL, Jetson
    if Path("/dev").is_dir() and not any(any(Path("/dev").glob(file)) for file in files):
        return 0
    import torch

    return torch.cuda.device_count()


def check_launch(launch: Mapping[str, Any]) -> None:
    """Raises ``UserError`` for what this machine cannot carry out."""
    if reason := cannot_start(launch):
        raise UserError(reason[1])


def to_start(launch: Mapping[str, Any]) -> bool:
    """Whether this command has workers to start, rather than being one."""
    return launch["processes"] > 1 and "RANK" not in os.environ


def start_workers(launch: Mapping[str, Any], arguments: Sequence[str], module: str = "core.run", what_remains: str = RESUME) -> int:
    """Runs ``python -m module arguments`` in every worker and waits; returns the exit code.

    ``what_remains``: a sentence for the user, of what there is after a stop.
    """
    check_launch(launch)
    import logging

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what the user reads is said below
    os.environ[LAUNCHER] = str(os.getpid())
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // launch["processes"])))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=launch["processes"],
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        # the others are passed on: elastic would kill workers 30 seconds later, in the middle of a save
        signals_to_handle="SIGINT,SIGHUP,SIGQUIT" if _children() is not None else "SIGTERM,SIGINT,SIGHUP,SIGQUIT",
    )
    asked: list[int] = []
    if _children() is not None:
        for number in stopping.SIGNALS:
            signal.signal(number, partial(_pass_on, asked))
    try:
        elastic_launch(config, sys.executable)(*module_options(), "-m", module, *arguments)
    except ChildFailedError as error:
        if asked and all(failure.exitcode in (0, -asked[0]) for failure in error.failures.values()):
            stopped = Stopped(asked[0])  # before the workers listened
            print(stopped if what_remains is RESUME else f"stopped by {stopped.signal.name}; {what_remains}", file=sys.stderr)
            return stopped.exit_code(launch["requeue"])
        return _first_failure(error.failures, what_remains)
    except SignalException as error:
        print(f"stopped by {error.sigval.name}; {what_remains}", file=sys.stderr)
        return 128 + error.sigval
    finally:
        del os.environ[LAUNCHER]
    return 0


def _children() -> list[int] | None:
    """The processes that this one has started; None where the system does not say."""
    files = list(Path("/proc/self/task").glob("*/children"))
    return [int(child) for file in files for child in file.read_text().split()] if files else None


def _pass_on(asked: list[int], number: int, frame: FrameType | None) -> None:
    asked.append(number)
    for child in _children() or []:
        with suppress(ProcessLookupError):
            os.kill(child, number)


def _first_failure(failures: Mapping[int, Any], what_remains: str = RESUME) -> int:
    """Prints what the rank that failed first has to say; returns its exit code, 128 + the signal's number if one killed it."""

    def order(rank: int) -> tuple[bool, bool, bool, float]:
        report = failures[rank].error_file_data
        # the launcher ends the other workers with SIGTERM, and its own timestamps are whole seconds: they come last
        ended = failures[rank].exitcode == -signal.SIGTERM
        return report.get("lost", False), "words" not in report, ended, report.get("time", failures[rank].timestamp)

    rank = min(failures, key=order)
    report, code = failures[rank].error_file_data, failures[rank].exitcode
    if "words" in report:
        print(report["words"].rstrip(), file=sys.stderr)
    elif code < 0:
        print(f"error: rank {rank} was killed by {signal.Signals(-code).name}; {what_remains}", file=sys.stderr)
    else:
        print(f"error: rank {rank} ended with exit code {code}", file=sys.stderr)
    return code if code >= 0 else 128 - code


def become_worker() -> None:
    """Joins SLURM. In a worker started by this command: dies with the launcher, however that ends, and leaves its errors to it."""
    slurm.adopt(os.environ)
    if LAUNCHER not in os.environ:
        return
    die_with_parent()
    if os.getppid() != int(os.environ[LAUNCHER]):  # it died before the line above
        os._exit(1)
    sys.excepthook = report_crash


def die_with_parent() -> None:
    """Lets the system kill this process when the one that started it ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
