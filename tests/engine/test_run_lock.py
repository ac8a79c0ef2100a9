"""One command at a time trains a run, and a dead process leaves no lock."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core.contracts import UserError
from core.engine import run_lock
from core.engine.run_lock import FILE, WITHOUT_LOCKS, training

ROOT = Path(__file__).parents[2]
HOLD = """
import os, sys, time
from pathlib import Path
from core.engine import run_lock
if sys.argv[2] == "without":
    import errno, fcntl
    def none(*given):
        raise OSError(errno.ENOSYS, "Function not implemented")
    run_lock.fcntl.lockf = none
with run_lock.training(Path(sys.argv[1])):
    if os.fork() == 0:  # as a loader's worker, which outlives its process for some seconds
        os.close(1)
        time.sleep(60)
    print("held", flush=True)
    time.sleep(60)
"""


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*given: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(run_lock.fcntl, "lockf", none)


@pytest.mark.parametrize("locks", ["with", "without"])
def test_another_process_is_refused_and_a_killed_one_leaves_nothing(tmp_path: Path, locks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if locks == "without":
        without_locks(monkeypatch)
    command = [sys.executable, "-c", HOLD, str(tmp_path), locks]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        for _ in range(2):  # to look at it takes nothing away
            with pytest.raises(UserError, match=rf"process {other.pid} on .* trains it since .*Nothing was changed"), training(tmp_path):
                pass
        other.kill()
        other.wait()
        with training(tmp_path) as sentence:  # its child still lives
            assert (sentence is not None) == (locks == "without")
            assert json.loads((tmp_path / (WITHOUT_LOCKS if sentence else FILE)).read_text())["pid"] == os.getpid()
        os.killpg(other.pid, signal.SIGKILL)
    assert not (tmp_path / WITHOUT_LOCKS).exists()


def test_the_same_process_is_refused_too_and_keeps_its_lock(tmp_path: Path) -> None:
    with training(tmp_path):
        with pytest.raises(UserError, match=f"process {os.getpid()} on"), training(tmp_path):
            pass
        asked = [sys.executable, "-c", f"from core.engine.run_lock import *\nwith training(Path({str(tmp_path)!r})): pass"]
        assert "trains it since" in subprocess.run(asked, capture_output=True, text=True, cwd=ROOT).stderr
    with training(tmp_path):
        pass


def test_without_locks_another_host_is_not_taken_for_dead_and_a_reused_number_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_locks(monkeypatch)
    file = tmp_path / WITHOUT_LOCKS
    mine = run_lock._me()
    file.write_text(json.dumps(mine | {"host": "elsewhere"}))
    with pytest.raises(UserError, match=r"If that process is gone, remove .*run\.pid: this file system has no locks"), training(tmp_path):
        pass
    file.write_text(json.dumps(mine))
    with pytest.raises(UserError, match="trains it since"), training(tmp_path):
        pass
    file.write_text(json.dumps(mine | {"started": "another boot 1"}))
    with training(tmp_path):
        assert json.loads(file.read_text())["started"] == mine["started"]
    file.write_text("")  # of a process that is just writing it, or died in it
    with pytest.raises(UserError, match="another process trains it"), training(tmp_path):
        pass
    os.utime(file, (1, 1))
    with training(tmp_path):
        pass


def test_a_folder_that_takes_no_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(UserError, match=r"run\.lock cannot be written \(Is a directory\): a run is locked while it trains"):
        training(tmp_path).__enter__()
