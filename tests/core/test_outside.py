"""Every error of the file system, of limits and of the environment is one sentence, and a fault of the program is none."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from core.contracts import UserError
from core.outside import TRACEBACK, Ending, sentence

ROOT = Path(__file__).parents[2]
NUMBERS = "ENOSPC EDQUOT EFBIG EROFS EACCES EPERM ENOENT ENOTDIR EISDIR EEXIST ENOTEMPTY ENAMETOOLONG ELOOP EMFILE ENFILE EIO ESTALE ENOMEM"
NUMBERS += " EAGAIN ENOSYS ENOTSUP ENOLCK EADDRINUSE EBUSY ENODEV ENXIO ETIMEDOUT"


def failing(how: object) -> BaseException:
    try:
        how()  # type: ignore[operator]
    except BaseException as error:
        return error
    raise AssertionError("it does not fail")


@pytest.mark.parametrize("name", NUMBERS.split())
def test_every_number_of_the_system_is_a_sentence_with_place_and_remedy(name: str) -> None:
    number = getattr(errno, name)
    what = os.strerror(number)
    said = sentence(OSError(number, what, "/data/x"))
    assert said is not None
    assert said.startswith(f"/data/x: {what}; ")
    assert len(said.split("; ", 1)[1]) > 10
    assert sentence(OSError(number, what), Path("runs")) in (said.replace("/data/x", "runs"), said.removeprefix("/data/x: "))


def test_two_names_and_names_that_are_no_text() -> None:
    assert str(sentence(OSError(errno.EACCES, "", "a", None, "b"))).startswith("a -> b: Permission denied; ")
    assert str(sentence(FileNotFoundError(errno.ENOENT, "", b"caf\xe9"))).startswith("caf\udce9: No such file")


def test_real_errors(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for how, words in (
        (lambda: (tmp_path / "none" / "x").write_text("x"), "none/x: No such file or directory; check the path"),
        (lambda: (tmp_path / "file" / "x").mkdir(), "file/x: Not a directory; a part of this path is a file"),
        (lambda: tmp_path.read_text(), f"{tmp_path}: Is a directory; it is a folder, where a file should be"),
        (lambda: (tmp_path / "file").mkdir(), "file: File exists; remove it"),
        (lambda: (tmp_path / ("x" * 300)).touch(), "File name too long; give a shorter name"),
        (lambda: torch.empty(2**50), "there is not enough memory (\\[|there is not enough memory \\(.*"),
    ):
        said = sentence(failing(how))
        assert said is not None
        assert any(part in said for part in words.split("\\[|")) or "not enough memory" in said
        assert "\n" not in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_under_a_library() -> None:
    """It fails a second time while it cleans up. Only opened for writing: what is renamed to that name would take the device's place."""
    tensor = torch.zeros(2**20)

    def save() -> None:
        with open("/dev/full", "wb") as stream:
            torch.save({"a": tensor}, stream)

    assert "No space left on device; make room" in str(sentence(failing(save), Path("out")))


TOLD: list[tuple[BaseException, str]] = [
    (RuntimeError("Too many open files. Communication with the workers is no longer possible."), "raise the limit (ulimit -n"),
    (
        RuntimeError("unable to open shared memory object </torch_1> in read-write mode: Too many open files (24)"),
        "raise the limit (ulimit -n",
    ),
    (RuntimeError("unable to write to file </torch_1>: No space left on device (28)"), "make room"),
    (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "make room"),
    (RuntimeError("can't start new thread"), "ulimit -u"),
    (
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
        ),
        "lower train.batch_size",
    ),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."), "train.activation_checkpointing=true"),
    (MemoryError(), "there is not enough memory"),
    (
        RuntimeError("Could not determine home directory."),
        "has no home folder: the system has no entry for it, and nothing is set; set HOME",
    ),
    (KeyError("getpwuid(): uid not found: 12345"), "set USER to any name"),
    (FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp']"), "set TMPDIR"),
    (
        OSError("Caught OSError in DataLoader worker process 0.\nTraceback:\n  File x\nOSError: [Errno 5] Input/output error: '/d/a.png'"),
        "'/d/a.png': Input/output error; the disk or the way to it fails",
    ),
    (UnicodeEncodeError("utf-8", "runs/caf\udce9", 8, 9, "surrogates not allowed"), "rename that file or folder"),
    (UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range(128)"), "set PYTHONUTF8=1"),
    (
        ImportError("libGL.so.1: cannot open shared object file: No such file or directory"),
        "a library of this machine cannot be loaded (libGL",
    ),
    (UserError("what the user reads"), "what the user reads"),
]


@pytest.mark.parametrize(("error", "words"), TOLD)
def test_what_libraries_raise(error: BaseException, words: str) -> None:
    said = sentence(error)
    assert said is not None
    assert words in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("The size of tensor a (4) must match the size of tensor b (3)"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x24)"),
        KeyError("loop1"),
        ValueError("a fault"),
        TypeError("a fault"),
        ImportError("cannot import name 'x'"),
        AssertionError("a fault"),
        StopIteration(),
    ],
)
def test_a_fault_of_the_program_is_none(error: Exception) -> None:
    assert sentence(error) is None
    with pytest.raises(type(error)), Ending():
        raise error


def test_the_end_of_a_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def command(error: BaseException | None) -> int:
        with Ending("earlier work is kept") as ending:
            if error is not None:
                raise error
            return 7
        return ending.code

    assert command(None) == 7
    assert command(OSError(errno.EDQUOT, "", "x")) == 2
    assert capsys.readouterr().err == "error: x: Disk quota exceeded; make room, or give another place; earlier work is kept\n"
    assert command(UserError("wrong")) == 2
    assert capsys.readouterr().err == "error: wrong\n"
    assert command(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted; earlier work is kept\n"
    monkeypatch.setenv(TRACEBACK, "1")
    assert command(OSError(errno.EIO, "", "x")) == 2
    assert "Traceback" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ whole commands


def dualloop(words: str, cwd: Path, shell: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own. ``shell``: what a shell puts after it."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    line = f"set -o pipefail; exec 9<&0; {sys.executable} -m {words} {shell}"
    return subprocess.run(["bash", "-c", line], cwd=cwd, env=env, capture_output=True, text=True, errors="backslashreplace")


def test_no_reader_a_full_output_and_an_ascii_one(tmp_path: Path) -> None:
    gone = dualloop("core.components list", tmp_path, "| head -1")
    assert (gone.returncode, gone.stderr) == (0, "")
    full = dualloop("core.recipes", tmp_path, "> /dev/full")
    assert full.returncode == 2
    assert full.stderr.startswith("error: ")
    assert full.stderr.endswith("No space left on device; make room, or give another place\n")
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    told = dualloop("core.compare $'caf\\xe9\\xc3\\xa9'", tmp_path, **ascii_only)
    assert told.returncode == 2
    assert told.stderr.startswith("error: there is no run folder caf\\udce9")
    assert "Traceback" not in told.stderr
    closed = dualloop("core.recipes", tmp_path, ">&-")
    assert (closed.returncode, closed.stderr) == (0, "")


def test_a_run_goes_on_when_nobody_reads_its_output(tmp_path: Path) -> None:
    code = "from core.engine.progress import Output; out = Output(); [out.print('line ' * 99) for _ in range(999)]; open('end', 'w')"
    done = subprocess.run(["bash", "-c", f'{sys.executable} -c "{code}" | head -1'], cwd=tmp_path, capture_output=True, text=True)
    assert (tmp_path / "end").exists(), done.stderr
    assert done.stderr == ""


def test_a_user_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    from plugins.datasets._cache import cache_folder
    from plugins.trackers.wandb import has_key

    for name in ("HOME", "DUALLOOP_CACHE", "XDG_CACHE_HOME", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])  # as for a user that the system does not know
    with pytest.raises(UserError, match="set DUALLOOP_CACHE to a folder"):
        cache_folder()
    assert not has_key()


def test_a_check_names_its_option_where_the_sheets_cannot_be_written(tmp_path: Path) -> None:
    from core.commands.check import _sheets

    with pytest.raises(UserError, match=r"runs: Permission denied; .*; --out FOLDER puts"), _sheets(Path("runs/check-x")):
        raise PermissionError(errno.EACCES, "", "runs")
    with pytest.raises(OSError, match="data"), _sheets(Path("runs/check-x")):  # something else that it reads
        raise PermissionError(errno.EACCES, "", "data")


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    done = dualloop("core.recipes", tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0
    line = f"cd here && rmdir ../here && {sys.executable} -c 'from core.cli import main; raise SystemExit(main([\"recipes\"]))'"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: the current folder is gone; change into one that exists\n"


def test_warnings_for_users_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    from core.outside import _show_warning

    _show_warning(UserWarning("heed this"), UserWarning, str(ROOT / "plugins" / "x.py"), 1)
    _show_warning(UserWarning("elsewhere"), UserWarning, "/usr/lib/x.py", 1)
    first, *others = capsys.readouterr().err.splitlines()
    assert first == "warning: heed this"
    assert others[0].startswith("/usr/lib/x.py:1: UserWarning")
    assert warnings.showwarning is not _show_warning  # of the tests' own process
