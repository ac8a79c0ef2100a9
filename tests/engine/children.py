"""Child processes that are forked from one that has imported everything: to import it costs each of them ten times their work."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["tests.engine.warm"])
_PR_SET_NAME = 15  # linux/prctl.h
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

    It has the environment and the folder of the process that makes it, and ``variables``; it is no rank. The workers that it starts
    are forked from it (``_Forked``), so that they have nothing to import, either.
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
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal, also where the tests run under nohup or in the background
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    for number, name in ((0, None), (1, "out"), (2, "err")):
        file = os.open(said / name if name else os.devnull, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    import torch
    from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

    SubprocessHandler._popen = lambda handler, command, given: _Forked(command, given)  # type: ignore[assignment,return-value]
    torch.set_num_threads(1)
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class _Forked:
    """What the launcher would start as ``python [OPTIONS] -m module arguments``: a child of its own, in a session of its own, in which
    nothing has to be imported. It has the methods of ``subprocess.Popen`` that torch's launcher uses."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        module, *arguments = command[command.index("-m") + 1 :]
        launcher = os.getpid()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            os.setsid()
            for number in signal.valid_signals():
                if callable(signal.getsignal(number)):  # the launcher's own; what is ignored stays so, as across exec
                    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            os.environ.clear()
            os.environ.update(environment)
            _mark_worker(launcher)
            for name in [name for name in sys.modules if name.startswith("dualloop_local_")]:  # a recipe's own files are read anew
                del sys.modules[name]
            sys.argv[1:] = arguments
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
        except BaseException:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float) -> int:
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("worker", timeout)
            time.sleep(0.02)
        return self.returncode or 0


def _mark_worker(launcher: int) -> None:
    """Gives this process a name by which ``workers`` finds it, whoever its parent is: /proc/PID/environ stays that of the fork server."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, f"of-{launcher}".encode())


def workers(launcher: int) -> list[int]:
    """The living processes that a ``Command`` has started as its workers, and what these have forked."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:  # gone
            continue
        if name == f"of-{launcher}" and rest.split()[0] != "Z":
            found.append(int(entry.name))
    return found
