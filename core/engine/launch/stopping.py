"""SIGTERM and SIGUSR1: a run that is asked to stop finishes its update, saves and ends. Importing this does not import torch.

Outside the updates there is nothing to save, and the signal ends the run at once. With ``launch.requeue`` the exit code
is 0, and a SIGUSR1 within a SLURM job puts the job back into the queue.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from core.contracts import UserError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
GRACE_S = 5.0  # for a wait that may have no end, after a signal; schedulers kill after 10 to 30
_APART_S = 1.0  # a launcher passes on what a scheduler has sent to every process: a signal sooner than this is the same one again


class Stopped(BaseException):
    """A signal asked the run to stop. Not an ``Exception``: like Ctrl-C it must pass whatever handles failures."""

    def __init__(self, number: int, when: str = "before it had trained") -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {self.signal.name} {when}; --resume goes on from the last checkpoint")

    def exit_code(self, requeue: bool) -> int:
        """0 for who asked to be started again, otherwise 128 + the signal's number as in a shell."""
        return 0 if requeue else 128 + self.signal


class _State:
    asked: int | None = None  # the first signal taken
    when = 0.0  # seconds of ``time.monotonic``
    waits = ""  # what for, see ``waiting``
    patient = False  # whether the run checks ``asked`` itself
    owner = 0  # the process that listens


def asked() -> int | None:
    """The number of the signal that asked this process to stop."""
    return _State.asked


@contextmanager
def listening() -> Iterator[None]:
    """Inside it the signals are taken; they raise ``Stopped`` unless ``patiently`` is entered."""
    if threading.current_thread() is not threading.main_thread():  # Python takes signals in the main thread only
        yield
        return
    _State.asked, _State.owner = None, os.getpid()
    before = {number: signal.signal(number, _take) for number in SIGNALS}
    try:
        yield
    finally:
        _State.asked = None
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def patiently() -> Iterator[None]:
    """Inside it a signal is only noted: the caller asks for it where it can stop."""
    _State.patient = True
    try:
        yield
    finally:
        _State.patient = False


def patient() -> bool:
    """Whether the run is inside ``patiently``, and asks for the signal itself."""
    return _State.patient


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Around a wait that may have no end: a signal breaks it off after ``GRACE_S``, a second one at once, with ``Stopped``."""
    if not _State.patient or sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    before, _State.waits = signal.signal(signal.SIGALRM, _break_off), what
    try:
        if _State.asked is not None:  # since the wait before this one
            signal.setitimer(signal.ITIMER_REAL, GRACE_S)
        yield
    finally:
        _State.waits = ""
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def requeue() -> None:
    """Puts the SLURM job of this process, if it is in one, back into the queue. Raises ``UserError`` where SLURM refuses."""
    job = os.environ.get("SLURM_JOB_ID")
    if job and shutil.which("scontrol"):
        done = subprocess.run(["scontrol", "requeue", job], check=False, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"saved, but SLURM does not requeue job {job}: {done.stderr.strip()}; submit it again, with --resume")


def _take(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _State.owner:  # a loader's worker has inherited the handler; its end is the main process's business
        return
    again = _State.asked is not None and time.monotonic() - _State.when >= _APART_S
    if _State.asked is None:
        _State.asked, _State.when = number, time.monotonic()
    if not _State.patient:
        raise Stopped(number)
    if _State.waits:
        if again:
            _break_off()
        signal.setitimer(signal.ITIMER_REAL, GRACE_S)


def _break_off(number: int = 0, frame: FrameType | None = None) -> None:
    if _State.waits and _State.asked is not None:
        raise Stopped(_State.asked, f"while it waited {_State.waits}")
