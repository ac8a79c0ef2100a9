"""Errors that come from outside the program, each as one sentence: what, where, what to do. One place decides it for all commands.

Outside are the file system, limits, memory and the environment. What is none of these is a fault of the program and keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from io import TextIOWrapper, UnsupportedOperation
from pathlib import Path
from types import TracebackType
from typing import TextIO

from core.contracts import UserError

#: In the environment: shows where an error of outside arose, too.
TRACEBACK = "DUALLOOP_TRACEBACK"
_ROOT = Path(__file__).resolve().parents[1]
_PLACE = "make room, or give another place"
_RENAME = "rename that file or folder"
_MEMORY = "lower train.batch_size (train.accumulate makes up for it) or train.workers, or use a machine with more memory"
#: errno -> what to do.
_REMEDIES = {
    errno.ENOSPC: _PLACE,
    errno.EDQUOT: _PLACE,
    errno.EFBIG: "raise the limit (ulimit -f), or give a place on another file system",
    errno.EROFS: "give another place",
    errno.EACCES: "change its permissions, or give another place",
    errno.EPERM: "change its permissions, or give another place",
    errno.ENOENT: "check the path, or whether something has removed it meanwhile",
    errno.ENOTDIR: "a part of this path is a file and no folder; give another place",
    errno.EISDIR: "it is a folder, where a file should be; give another name",
    errno.EEXIST: "remove it, or give another name",
    errno.ENOTEMPTY: "something writes into it at the same time; end that, or give another place",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "its links lead round in a circle; put them right",
    errno.EMFILE: "raise the limit (ulimit -n 65536), or lower train.workers",
    errno.ENFILE: "the whole machine has too many open; end other programs, or lower train.workers",
    errno.EIO: "the disk or the way to it fails; look into the system's log, then give another place",
    errno.ESTALE: "the network disk has lost it; start again",
    errno.ENOMEM: _MEMORY,
    errno.EAGAIN: "the limit of processes is reached (ulimit -u), or the machine is short of them; lower train.workers",
    errno.ENOSYS: "this file system cannot do it; give a place on another one (DUALLOOP_CACHE for indices)",
    errno.EOPNOTSUPP: "this file system cannot do it; give a place on another one (DUALLOOP_CACHE for indices)",
    errno.ENOLCK: "this file system cannot lock files; give a place on another one (DUALLOOP_CACHE for indices)",
    errno.EADDRINUSE: "another program has the port; give another one (MASTER_PORT)",
}
#: Those for which the place matters, though the error may not name it: a write to what is open already.
_OF_A_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENODEV}
#: What some libraries, such as torch and safetensors, pass on of an error of the system: its number in their text.
_NUMBER = re.compile(r"\[Errno (\d+)\]|\(os error (\d+)\)")


def sentence(error: BaseException, at: Path | None = None) -> str | None:
    """What the user can be told of an error that came from outside; None for a fault of the program.

    ``at``: the place to name where the error itself names none.
    """
    if isinstance(error, UserError):
        return str(error)
    text = _last_line(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and re.search(r"(?i)alloc\w* memory|enough memory", text)):
        return f"there is not enough memory ({text or 'none was given'}); {_MEMORY}"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, of a GPU
        return f"the GPU's memory is too small ({text.split('. ')[0]}); {_MEMORY}, or set train.activation_checkpointing=true"
    if isinstance(error, UnicodeEncodeError):
        return _name_sentence(error)
    if isinstance(error, RuntimeError) and "home directory" in text:
        return _homeless("home folder", "HOME to a folder that this user may write to (DUALLOOP_CACHE is enough for indices)")
    if isinstance(error, KeyError | OSError) and ("getpwuid()" in text or "No username set" in text):
        return _homeless("name", "USER to any name")
    if isinstance(error, OSError):
        return _of_the_system(error, error.errno or _number(text), text, at)
    if isinstance(error, ImportError) and "shared object" in text:
        return f"a library of this machine cannot be loaded ({text}); install it, or the package that needs it anew"
    if isinstance(error, RuntimeError) and "inline_container" in text and isinstance(error.__context__, OSError):
        return sentence(error.__context__, at)  # torch.save goes on to write its end where a write failed
    if match := re.match(r"Path (.*) is not valid UTF-8", text):  # of safetensors
        return f"the name {match[1]} holds bytes that are no UTF-8 text; {_RENAME}"
    if isinstance(error, RuntimeError) or type(error).__name__ == "SafetensorError":
        number = errno.EAGAIN if "start new thread" in text else _number(text)
        return None if number is None else _of_the_system(error, number, text, at)
    return None


def _of_the_system(error: BaseException, number: int | None, text: str, at: Path | None) -> str:
    names = [name for name in (getattr(error, "filename", None), getattr(error, "filename2", None)) if name is not None]
    if "temporary directory" in text:
        return f"there is no folder for temporary files ({text}); set TMPDIR to one that this user may write to"
    if number == errno.ENOENT and not names and _lost():
        return "the current folder is gone; change into one that exists"
    if number is None:
        return f"{at}: {text}" if at is not None else text
    if not names and (match := re.search(r"\[Errno \d+\] [^:]+: (.+)", text)):  # the text of an error in another process
        names = [match[1]]
    if not names and at is not None and number in _OF_A_PLACE:
        names = [at]
    where = " -> ".join(f"file {name}" if isinstance(name, int) else os.fsdecode(name) for name in names)
    known = names or text in ("", os.strerror(number)) or text.startswith("[Errno")
    what = os.strerror(number) if known else text.split(". ")[0].rstrip(".")
    remedy = _REMEDIES.get(number, f"set {TRACEBACK}=1 to see where that was")
    return f"{where}: {what}; {remedy}" if where else f"{what}; {remedy}"


def _number(text: str) -> int | None:
    """The number of the system's error that a library's text carries, or whose words it holds."""
    if match := _NUMBER.search(text):
        return int(match[1] or match[2])
    return next((number for number in _REMEDIES if os.strerror(number) in text), None)


def _last_line(error: BaseException) -> str:
    """Of a text with the traceback of another process the end, which is the error itself; otherwise all in one line."""
    text = str(error).strip()
    lines = text.splitlines()
    return lines[-1].partition(": ")[2] if text.startswith("Caught ") and len(lines) > 1 else " ".join(text.split())


def _name_sentence(error: UnicodeEncodeError) -> str:
    part = ascii(error.object[max(0, error.start - 20) : error.end + 20])
    if "surrogates" in error.reason:
        return f"the name {part} holds bytes that are no UTF-8 text; {_RENAME}"
    return f"{part} cannot be written in this system's encoding ({error.encoding}); set PYTHONUTF8=1 or LANG=C.UTF-8"


def _homeless(what: str, remedy: str) -> str:
    return f"this user (number {os.getuid()}) has no {what}: the system has no entry for it, and nothing is set; set {remedy}"


def _lost() -> bool:
    try:
        os.getcwd()
    except OSError:
        return True
    return False


def _to_user(error: UserError) -> None:
    print(f"error: {error}", file=sys.stderr)


class Ending:
    """Around the whole of a command: an error that the user can put right ends it with one sentence, in exit code ``code``.

    ``with Ending() as ending: return work()``, and after it ``return ending.code``. Also: Ctrl-C is no traceback, a reader of the
    output that goes away, such as ``| head``, is no error.
    """

    def __init__(self, what_remains: str = "", say: Callable[[UserError], None] = _to_user) -> None:
        """``what_remains``: of the work, after an error of outside or Ctrl-C. ``say``: tells the sentence."""
        self.code, self._what_remains, self._say = 2, what_remains, say

    def __enter__(self) -> Ending:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        lost = _flush(sys.stdout) or _flush(sys.stderr)
        if isinstance(lost, BrokenPipeError) and (error is None or isinstance(error, BrokenPipeError)):
            self.code = 128 + signal.SIGPIPE if self._what_remains else 0  # what only prints has done its work
            return error is not None
        if lost and error is None:
            self._say(UserError(str(sentence(lost, Path("standard output")))))
            raise SystemExit(2)  # the command itself has returned already
        if isinstance(error, KeyboardInterrupt):
            print("interrupted" + (f"; {self._what_remains}" if self._what_remains else ""), file=sys.stderr)
            self.code = 130
            return True
        said = None if error is None else sentence(error)
        if error is None or said is None:
            return False
        if os.environ.get(TRACEBACK):
            traceback.print_exception(kind, error, trace)
        remains = f"; {self._what_remains}" if self._what_remains and not isinstance(error, UserError) else ""
        self._say(error if isinstance(error, UserError) else UserError(said + remains))
        return True


def _flush(stream: TextIO) -> OSError | None:
    """Writes what is waiting. The error where nobody takes it any more; it then goes nowhere, now and when Python ends."""
    try:
        stream.flush()
        pipe = select.poll()
        pipe.register(stream.fileno(), select.POLLOUT)
        if any(event & select.POLLERR for _, event in pipe.poll(0)):  # unbuffered, nothing is left that flush could write
            raise BrokenPipeError
    except UnsupportedOperation:  # no file of the system
        pass
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    except ValueError:  # it is closed
        pass
    return None


def any_text() -> None:
    """Once in a process: no text is refused by the output's encoding, a closed output is none, and warnings for users are one line."""
    nowhere = open(os.devnull, "w")  # noqa: SIM115  for as long as the process lives
    sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None
) -> None:
    """A warning for the user is one line; one for programmers says where it was raised."""
    own = category is UserWarning and any(Path(filename).is_relative_to(_ROOT / room) for room in ("core", "plugins"))
    text = f"warning: {message}\n" if own else warnings.formatwarning(message, category, filename, lineno, line)
    (file or sys.stderr).write(text)
