"""Starts the worker processes of a run on this machine, and ends with the first failing worker's words and exit code.

Workers are the same command again; under torchrun or in a SLURM step of several tasks nothing is started. Importing
this module does not import torch.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from core.contracts import UserError
from core.cores import cores
from core.engine.launch import slurm, stopping
from core.engine.launch.devices import check_launch, prepare, set_threads
from core.engine.launch.reporting import LAUNCHER, RESUME, report_crash
from core.engine.launch.stopping import Stopped
from core.installed.starting import module_options

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


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
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what the user reads is said below
    os.environ[LAUNCHER] = str(os.getpid())
    set_threads(os.environ, cores() // launch["processes"])
    if "lo" in (name for _, name in socket.if_nameindex()):  # all workers are here: the name of this machine need not resolve
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=launch["processes"],
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        signals_to_handle=",".join(_handled()),
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
    except RendezvousError as error:
        raise UserError(f"the processes cannot meet at 127.0.0.1 ({error}); is the network interface lo up?") from error
    finally:
        del os.environ[LAUNCHER]
    return 0


def _handled() -> list[str]:
    """The signals that end the launcher and its workers at once. What was ignored when it was started stays so: nohup, ``trap``.

    SIGTERM and SIGUSR1 are passed on instead, where the workers can be found: torch would kill them 30 seconds later, in the middle
    of a save.
    """
    names = ["SIGINT", "SIGHUP", "SIGQUIT"] if _children() is not None else ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"]
    return [name for name in names if signal.getsignal(getattr(signal, name)) != signal.SIG_IGN]


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
    """Joins SLURM and prepares the environment.

    In a worker started by this command: dies with the launcher, however that ends, and leaves its errors to it.
    """
    slurm.adopt(os.environ)
    prepare(os.environ)
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
