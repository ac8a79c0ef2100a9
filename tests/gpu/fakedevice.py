"""Loads ``fakeguard.cpp``, so that ``backward`` runs on fake CUDA tensors. Import it before torch, in a process of its own.

It changes the process for good: ``torch`` then believes in one CUDA device. Built once for each version of torch, with g++.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("fakeguard.cpp")


def missing() -> str | None:
    """What the build lacks here, in a sentence; None: nothing."""
    if sys.platform != "linux":
        return "fake CUDA is built for Linux only"
    if shutil.which("g++") is None:
        return "fake CUDA needs g++ (Debian: apt-get install g++)"
    if not (_torch() / "include" / "ATen" / "detail" / "CUDAHooksInterface.h").is_file():
        return "fake CUDA needs torch's C++ headers, which this installation of torch lacks"
    return None


def _torch() -> Path:
    """The folder of torch, which is not imported for it."""
    found = importlib.util.find_spec("torch")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def built() -> Path:
    """The library for this torch, from the user's cache or new: half a minute the first time."""
    torch = _torch()
    key = hashlib.sha256(SOURCE.read_bytes() + (torch / "version.py").read_bytes()).hexdigest()[:16]
    library = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dualloop" / f"fakeguard-{key}.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    with library.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two tests at once build it once; the lock ends with its process
        if not library.is_file():
            new, include = library.with_suffix(".new"), torch / "include"
            options = ["-O0", "-shared", "-fPIC", "-std=c++20", f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}"]
            subprocess.run(["g++", *options, str(SOURCE), "-o", str(new)], check=True)
            new.replace(library)
    return library


_KEPT: list[Any] = []  # registrations end with the object


def _absent(*given: Any, **named: Any) -> Any:
    raise RuntimeError("a CUDA kernel was called, and there is no device")


def load() -> None:
    """Makes torch believe in a CUDA device. Raises ``RuntimeError`` where torch was there first."""
    if "torch" in sys.modules:
        raise RuntimeError("fakedevice must be loaded before torch, in a process of its own")
    ctypes.CDLL(str(_torch() / "lib" / "libtorch_cpu.so"), ctypes.RTLD_GLOBAL)  # whose symbols the library then finds
    ctypes.CDLL(str(built()), ctypes.RTLD_GLOBAL).register_guard()
    import torch
    import transformers.masking_utils
    from torch.utils.checkpoint import DefaultDeviceType

    kernels = torch.library.Library("aten", "IMPL", "CUDA")
    for name in ("silu_backward",):  # of CUDA's own kernels, those in whose absence torch makes several operations of one
        kernels.impl(name, _absent)
    _KEPT.append(kernels)
    torch.cuda._lazy_init = lambda: None
    torch.cuda.is_bf16_supported = lambda *given, **named: True  # type: ignore[assignment]
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False  # otherwise autocast switches itself off
    DefaultDeviceType.set_device_type("cuda")  # what checkpointing finds on a GPU, whose random state it then saves
    torch.cuda.default_generators = (torch.default_generator,)  # dropout keeps its state and draws again
    transformers.masking_utils.is_tracing = lambda *given: False  # a fake tensor would be taken for a trace, and get a mask
