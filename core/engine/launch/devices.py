"""The device of a run, and what a process sets in its environment before torch is loaded. Importing this does not import torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from core.contracts import UserError
from core.cores import bound, cores

_FILES = ("nvidia[0-9]*", "kfd", "dxg", "nvhost*")  # of CUDA, ROCm, WSL, Jetson
_SHARED = Path("/dev/shm")
_NCCL_BYTES = 2**30  # NVIDIA's advice for containers: docker run --shm-size=1g
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # its name since torch 2.9, and before
_OURS = "DUALLOOP_THREADS"  # what OMP_NUM_THREADS was set to here, and not by the user


def gpus() -> int:
    """How many GPUs there are. Where none is to be seen, torch need not be loaded to say so."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return 0
    if Path("/dev").is_dir() and not any(any(Path("/dev").glob(file)) for file in _FILES):
        return 0
    import torch

    return torch.cuda.device_count()


def device_of(launch: Mapping[str, Any]) -> str:
    """``cpu`` or ``cuda``: what ``launch.device`` says; ``auto`` is cuda where there is a GPU."""
    device: str = launch["device"]
    return device if device != "auto" else "cuda" if gpus() else "cpu"


def cannot_start(launch: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why this machine cannot carry ``launch`` out: (the key that it is about, a sentence); None if it can."""
    if launch["strategy"] == "single" and launch["processes"] > 1:
        message = f"launch.processes={launch['processes']} needs launch.strategy=ddp, deepspeed or fsdp2; single is one process"
        return "processes", message
    if device_of(launch) != "cuda":
        return None
    asked, found = int(os.environ.get("LOCAL_WORLD_SIZE", launch["processes"])), gpus()
    here = "launch.strategy=single launch.processes=1 launch.device=cpu runs it here"
    return ("device", f"launch asks for {asked} GPUs, {found} found; {here}") if found < asked else None


def check_launch(launch: Mapping[str, Any]) -> None:
    """Raises ``UserError`` for what this machine cannot carry out."""
    if reason := cannot_start(launch):
        raise UserError(reason[1])


def device_notes(launch: Mapping[str, Any]) -> Iterator[str]:
    """What a user would want to know of the device before hours of training."""
    device = device_of(launch)
    if launch["device"] == "auto" and device == "cpu" and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
        for file in sorted(Path("/dev").glob("nvidia[0-9]*"))[:1]:
            import torch

            why = f"torch {torch.__version__} is built without CUDA" if torch.version.cuda is None else "the driver does not answer"
            yield f"trains on the CPU though there is {file}: {why} (docs/distributed.md, A machine with GPUs)"
    if device == "cuda" and launch["processes"] > 1 and (found := _shared_bytes()) is not None and found < _NCCL_BYTES:
        where = f"{_SHARED} has {found / 2**20:,.0f} MiB free"
        yield f"{where}, through which NCCL exchanges gradients within a machine: start the container with --shm-size=1g or more"


def _shared_bytes() -> int | None:
    try:
        found = os.statvfs(_SHARED)
    except (OSError, AttributeError):
        return None
    return found.f_bavail * found.f_frsize


def prepare(environment: MutableMapping[str, str]) -> None:
    """What torch reads when it is loaded, unless the user has set it.

    Threads: as many as a quota leaves, where there is one; each thread beyond it waits. Allocator: captions end at different lengths,
    and without expandable segments each length leaves gaps behind.
    """
    if "OMP_NUM_THREADS" not in environment and cores() < bound():
        set_threads(environment, cores())
    if sys.platform == "linux" and not any(name in environment for name in _ALLOCATOR):
        environment[_ALLOCATOR[0]] = "expandable_segments:True"


def set_threads(environment: MutableMapping[str, str], threads: int) -> None:
    """Gives this process, and those that it starts, so many threads; what the user has set stays."""
    if environment.get("OMP_NUM_THREADS") == environment.get(_OURS):
        environment["OMP_NUM_THREADS"] = environment[_OURS] = str(max(1, threads))
