"""What a process of a run says at its end: to the launcher if it is its worker, otherwise to the user. Imports no torch."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from core.contracts import UserError
from core.engine.launch import stopping
from core.engine.launch.stopping import Stopped

LAUNCHER = "DUALLOOP_LAUNCHER"  # in a worker's environment: the process id of the command that started it
RESUME = "the last checkpoint is kept, --resume continues from it"
_PATIENCE_S = 3.0  # a rank that only lost the others waits so long, so that the failed rank reports first


class LostRank(UserError):
    """Another rank ended or does not answer. A rank that ended reports why itself; a silent one reports nothing, so this error names it."""

    def __init__(self, words: str, names_silent_rank: bool = False) -> None:
        super().__init__(words)
        self.names_silent_rank = names_silent_rank


def report_stop(stopped: Stopped, requeue: bool) -> int:
    """Says that a signal stopped the run, on the first rank; returns the exit code. Raises ``UserError`` where SLURM refuses."""
    main = os.environ.get("RANK", "0") == "0"
    if requeue and main and stopped.signal == signal.SIGUSR1:
        stopping.requeue()
    if main and requeue:  # a launcher does not read what a worker that succeeded has to say
        print(stopped, file=sys.stderr)
    elif main or LAUNCHER in os.environ:
        _report(str(stopped), lost=True)
    return stopped.exit_code(requeue)


def print_notes(notes: Iterable[str]) -> None:
    """Says what the check of a recipe left out, on the first rank or in the command that starts the workers."""
    if LAUNCHER not in os.environ and os.environ.get("RANK", "0") == "0":
        for note in notes:
            print(f"note: {note}", file=sys.stderr)


def report_error(error: UserError) -> None:
    """Says what stopped the run: to the launcher if this process is its worker, otherwise to the user."""
    from_rank = f"rank {os.environ['RANK']}: " if "RANK" in os.environ else ""
    lost = isinstance(error, LostRank) and not error.names_silent_rank
    _report(f"error: {from_rank}{error}", lost)
    if lost and LAUNCHER in os.environ:
        time.sleep(_PATIENCE_S)


def _report(words: str, lost: bool = False) -> None:
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        now = time.time()
        message = {"message": words, "extraInfo": {"py_callstack": "", "timestamp": str(int(now))}}  # as torchrun reads it
        Path(file).write_text(json.dumps({"message": message, "words": words, "lost": lost, "time": now}), encoding="utf-8")
    if not (file and LAUNCHER in os.environ):
        print(words, file=sys.stderr)


def report_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _report(f"rank {os.environ.get('RANK', '0')} failed:\n" + "".join(traceback.format_exception(kind, error, trace)))
