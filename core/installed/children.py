"""Another of the toolkit's commands in a process of its own, which is told of signals and given the time to end by itself."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import FrameType


def wait_for(arguments: Sequence[str], log: Path | None = None) -> tuple[int, bool]:
    """Starts a program and waits -> (exit code, whether this process was asked to stop). ``log``: what it says is added there instead.

    A signal goes to the program, which is given the time to end by itself. Ended by a signal it has the code that a shell gives, 128
    and the signal's number.
    """
    stopped = False
    with (
        open(log, "ab") if log else nullcontext() as said,
        subprocess.Popen(arguments, stdout=said, stderr=subprocess.STDOUT if log else None) as child,
    ):

        def forward(number: int, frame: FrameType | None) -> None:
            nonlocal stopped
            stopped = True
            if number == signal.SIGTERM:  # Ctrl-C reaches the program by itself
                child.terminate()

        before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            code = child.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return (code if code >= 0 else 128 - code), stopped
