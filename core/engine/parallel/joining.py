"""How the ranks of a run find each other: at the address that a launcher has put into the environment of each."""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta

import torch.distributed as dist

from core.contracts import UserError

JOIN_S = 600  # for all ranks to come; on a busy file system loading torch alone takes minutes
_UNKNOWN_S = 30  # for a name to become known
_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def meet(timeout_s: int) -> tuple[dist.Store, int, int]:
    """(the store, rank, number of ranks), once all are there. Raises ``UserError``, after ``JOIN_S`` at the latest."""
    if missing := [name for name in _NEEDED if not os.environ.get(name)]:
        advice = "start it with torchrun or srun, or unset RANK to let this command start its own processes"
        raise UserError(f"RANK={os.environ.get('RANK', '')} is set, but {', '.join(missing)} is not: {advice}")
    patience = min(timeout_s, JOIN_S)
    try:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        if rank or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            _reach(host, port, patience)
        store, rank, world = next(dist.rendezvous("env://", timeout=timedelta(seconds=patience)))
    except (ValueError, RuntimeError) as error:
        raise UserError(_why(str(error).splitlines()[0], patience)) from error
    store.set_timeout(timedelta(seconds=timeout_s))
    return store, rank, world


def _reach(host: str, port: int, patience: int) -> None:
    """Waits until something listens there. Torch's own wait for it fills a screen and does not say why it failed."""
    began, reason = time.monotonic(), ""
    while True:
        left = patience - (time.monotonic() - began)
        try:
            socket.create_connection((host, port), max(0.1, min(left, 10))).close()
            return
        except OSError as error:
            reason = error.strerror or str(error)
            unknown = isinstance(error, socket.gaierror)
        if left <= 0 or (unknown and left <= patience - _UNKNOWN_S):
            break
        time.sleep(min(0.5, max(left, 0)))
    advice = f"does `getent hosts {host}` know it?" if unknown else "has rank 0 started, and does a firewall let this port through?"
    raise UserError(f"rank 0 is not reached at {host}:{port} (MASTER_ADDR, MASTER_PORT): {reason}, for {_seconds(began)} s; {advice}")


def _seconds(began: float) -> int:
    return round(time.monotonic() - began)


def _why(reason: str, patience: int) -> str:
    """A sentence for what torch's store says."""
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    if "EADDRINUSE" in reason:
        return f"the ranks are to meet at {place}, but another process has this port: set MASTER_PORT to a free one for all of them"
    if "waiting for clients" in reason:
        joined = reason.split("for clients.")[-1].strip().rstrip(".")
        advice = "have all tasks started, and are as many started as WORLD_SIZE says?"
        return f"not all ranks have come to {place} within {patience} s ({joined}); {advice}"
    return f"the ranks cannot meet at {place} ({reason}); is it rank 0 of this run that listens there?"
