"""Child processes that are forked from one that has imported everything: to import it costs each of them ten times their work."""

from __future__ import annotations

import multiprocessing
import os
import random
import runpy
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["tests.engine.warm"])
_PORTS = range(20_000, 32_000)  # below those that systems give to whoever connects (Linux: from 32768 on)


def free_port() -> int:
    """A port at 127.0.0.1 that nobody listens at, and that stays free while the processes start that are to meet there."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Command:
    """``python -m module arguments`` in a process group of its own, as a shell starts it, with the methods of ``subprocess.Popen``.

    It has the environment and the folder of the process that makes it, and ``variables``; it is no rank.
    """

    def __init__(self, module: str, *arguments: object, **variables: str) -> None:
        self._said = tempfile.TemporaryDirectory()
        ours = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
        environment = {name: value for name, value in os.environ.items() if name not in ours} | {"OMP_NUM_THREADS": "1"} | variables
        given = (module, [str(argument) for argument in arguments], environment, Path.cwd(), Path(self._said.name))
        self._process = CHILDREN.Process(target=_carry_out, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Waits for its end. Returns what it wrote to the standard output and to the standard error."""
        self._process.join(timeout)
        assert self.poll() is not None, f"it still runs after {timeout} s"
        with self._said:
            said = [Path(self._said.name, name).read_text() for name in ("out", "err")]
        return said[0], said[1]

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _carry_out(module: str, arguments: list[str], environment: Mapping[str, str], folder: Path, said: Path) -> None:
    os.setsid()
    for number, name in ((0, None), (1, "out"), (2, "err")):
        file = os.open(said / name if name else os.devnull, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    import torch

    torch.set_num_threads(1)
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)
