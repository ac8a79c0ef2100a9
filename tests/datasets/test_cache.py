from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import index as benchmark
from core.contracts import UserError
from plugins.datasets import _build
from plugins.datasets._build import line_starts, over_files, watched
from plugins.datasets._cache import Index, cached, pack, place, stamp_of
from plugins.datasets._listing import listing
from plugins.datasets.sa1b import Sa1b


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DUALLOOP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", benchmark.SOURCES)
def test_many_regions_open_fast_and_weigh_little(name: str, tmp_path: Path) -> None:
    """The short form of ``benchmarks/index.py``, where the same is measured with a million."""
    found = benchmark.measure(name, tmp_path / name, 20_000)
    assert found["regions"] == 20_000
    assert found["open_processor_s"] < 0.5  # the time that passes is the machine's, too
    assert found["index_bytes_per_region"] <= 100
    own, most = found["own_bytes_per_region"], 100 + 2**21 / 20_000  # what imports and buffers take does not grow with the regions
    for again in range(3):  # pages that the process happens to have beside only add to it: another look may see fewer
        if own > most:
            own = min(own, benchmark.measure(name, tmp_path / f"again{again}", 20_000)["own_bytes_per_region"])
    assert own <= most


def test_arrays_and_texts_come_back(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.int32).reshape(3, 2), "none": np.empty((0, 2), np.int64), **pack("t", ["", "é", "x\udcff"])}
    index = cached("x", {}, "s", lambda _: arrays)
    again = pickle.loads(pickle.dumps(index))
    for one in (index, again):
        np.testing.assert_array_equal(one["a"], arrays["a"])
        assert one["none"].shape == (0, 2)
        assert [one.text("t", row) for row in range(3)] == ["", "é", "x\udcff"]
        assert isinstance(one["a"], np.memmap)
    assert len(pickle.dumps(index)) < 500


def test_an_index_is_made_once_for_what_it_was_made_from(tmp_path: Path, folder: Path) -> None:
    made: list[str] = []

    def build(_: Path) -> dict[str, np.ndarray]:
        made.append("x")
        return {"a": np.arange(3)}

    source = tmp_path / "file"
    source.write_text("one")
    for _ in range(2):
        cached("x", {"k": 1}, stamp_of([source]), build)
    assert len(made) == 1
    cached("x", {"k": 2}, stamp_of([source]), build)
    assert len(made) == 2
    source.write_text("other")
    cached("x", {"k": 1}, stamp_of([source]), build)
    assert len(made) == 3
    os.utime(source, ns=(0, 0))
    cached("x", {"k": 1}, stamp_of([source]), build)
    assert len(made) == 4
    for path in folder.glob("*.index"):
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(ValueError, match="is cut"):
            Index(path)
    cached("x", {"k": 1}, stamp_of([source]), build)
    assert len(made) == 5


def _rows(names: tuple[str, ...]) -> np.ndarray:
    return np.array([(i, int(name)) for i, name in enumerate(names) for _ in range(2)], np.int32)


def _rows_or_stop(names: tuple[str, ...]) -> np.ndarray:
    if "11" in names:
        raise KeyboardInterrupt
    return _rows(names)


def test_an_interrupted_build_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_build, "_CHUNK", 5)
    names = [str(number) for number in range(13)]
    with pytest.raises(KeyboardInterrupt):
        over_files("x", _rows_or_stop, names, tmp_path / "part", 1)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "part").glob("*.npy")}
    assert len(kept) == 2
    rows = over_files("x", _rows, names, tmp_path / "part", 1)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    np.testing.assert_array_equal(rows, [(i, i) for i in range(13) for _ in range(2)])


def test_processes_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_build, "_CHUNK", 2)
    monkeypatch.setattr(_build, "cores", lambda: 3)
    names = [str(number) for number in range(13)]
    rows = over_files("x", _rows, names, tmp_path / "part", 1)
    np.testing.assert_array_equal(rows, [(i, i) for i in range(13) for _ in range(2)])


_KILLED = """
import os, sys, time
from pathlib import Path
import numpy as np
from plugins.datasets import _build
from plugins.datasets._cache import cached

def rows(names):
    if "7" in names:
        print(os.getpid(), flush=True)
        time.sleep(600)
    return np.array([(i, int(name)) for i, name in enumerate(names)], np.int32)

_build._CHUNK = 2
_build.cores = lambda: 2
cached("x", {}, "s", lambda part: {"rows": _build.over_files("x", rows, [str(n) for n in range(10)], part, 1)})
"""


def test_a_killed_build_leaves_no_process_and_no_lock(folder: Path) -> None:
    """Its processes hold the lock of the index too: they must end with it."""
    with subprocess.Popen([sys.executable, "-c", _KILLED], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as build:
        assert build.stdout is not None
        worker = int(build.stdout.readline())
        while len(kept := sorted(folder.glob("*.part/*.npy"))) < 3:  # those before the one that waits
            time.sleep(0.05)
        build.kill()
        build.wait()
    before = {path.name: path.stat().st_mtime_ns for path in kept}
    parts: list[Path] = []

    def build_again(part: Path) -> dict[str, np.ndarray]:
        assert {path.name: path.stat().st_mtime_ns for path in part.glob("*.npy")} == before
        parts.append(part)
        return {"rows": np.zeros(1)}

    cached("x", {}, "s", build_again)  # would wait for ever
    assert not parts[0].exists()
    while Path(f"/proc/{worker}").exists() and "Z" not in Path(f"/proc/{worker}/stat").read_text().split()[2]:
        time.sleep(0.05)


def test_files_are_listed_again_only_when_a_folder_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def names() -> list[str]:
        index = listing("x", tmp_path / "root", "a", ".npz")
        return [index.text("name", row) for row in range(index.count("name"))]

    for name in ("b/a2.npz", "a1.npz", "a1.txt", "b1.npz", "b/c/a\udcff.npz"):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).touch()
    expected = ["a1.npz", "b/a2.npz", "b/c/a\udcff.npz"]
    assert names() == expected
    (tmp_path / "root" / "b" / "a3.npz").touch()  # within the clock's tick
    assert names() == sorted([*expected, "b/a3.npz"])
    for folder in (tmp_path / "root", tmp_path / "root/b", tmp_path / "root/b/c"):
        os.utime(folder, (1e9, 1e9))
    assert names() == sorted([*expected, "b/a3.npz"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "walk", None)
        assert names() == sorted([*expected, "b/a3.npz"])
    (tmp_path / "root" / "b" / "c" / "a\udcff.npz").unlink()
    assert names() == ["a1.npz", "b/a2.npz", "b/a3.npz"]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_long_build_shows_how_far_it_is(terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(_build.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert [*watched("src", 8, [(0, 2), (2, 4), (4, 8)])] == [(0, 2), (2, 4), (4, 8)]
    shown = capsys.readouterr().err
    assert "src: indexing" in shown
    assert ("100%" in shown) if terminal else ("25 % done" in shown)


def test_a_new_or_changed_file_is_seen(world: Path, tmp_path: Path) -> None:
    root = tmp_path / "sa1b"
    root.mkdir()
    for path in sorted((world / "sa1b").glob("*.json"))[:3]:
        (root / path.name).write_bytes(path.read_bytes())
    count = len(Sa1b(root=root))
    first = next(root.glob("*.json"))
    content = json.loads(first.read_text())
    first.write_text(json.dumps(content | {"annotations": content["annotations"] * 2}))
    assert len(Sa1b(root=root)) == count + len(content["annotations"])
    first.unlink()
    assert len(Sa1b(root=root)) == count - len(content["annotations"])


@pytest.mark.parametrize("end", ["", "\n", "\r\n\r\n", "\n  \n\n"])
def test_starts_of_lines(tmp_path: Path, end: str) -> None:
    path = tmp_path / "file"
    lines = ["header", "a", "", "   ", "longer than sixteen characters", "b"]
    path.write_bytes(("\n".join(lines) + end).encode())
    data = path.read_bytes()
    assert [data[start:].split(b"\n")[0].strip() for start in line_starts(path, 7)] == [b"a", b"longer than sixteen characters", b"b"]


_FULL = (errno.ENOSPC, "No space left on device")


def _build_three(_: Path) -> dict[str, np.ndarray]:
    return {"a": np.arange(3), **pack("t", ["x"])}


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_no_fault(folder: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Lustre without flock, some NFS and FUSE. What another process builds meanwhile stays as it is."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    parts: list[Path] = []

    def build(part: Path) -> dict[str, np.ndarray]:
        over_files("x", _rows, ["1", "2"], part, 1)
        parts.append(part)
        if len(parts) == 1:  # another process comes between
            cached("x", {}, "s", build)
            assert part.is_dir()
        return _build_three(part)

    assert cached("x", {}, "s", build)["a"].tolist() == [0, 1, 2]
    assert len(set(parts)) == 2
    assert [path.suffix for path in sorted(folder.iterdir())] == [".index", ".lock"]


def test_a_full_cache_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's own answer: what is written goes to /dev/full."""
    monkeypatch.setattr("plugins.datasets._cache.uuid4", lambda: type("Fixed", (), {"hex": "fixed"}))
    folder.mkdir()
    full = folder / f".{place('x', {}).name}.fixed.new"
    full.symlink_to("/dev/full")
    with pytest.raises(UserError, match=rf"x: no index can be kept in {folder} \(No space left.*make room there, or set DUALLOOP_CACHE"):
        cached("x", {}, "s", _build_three)
    assert not full.is_symlink()
    assert cached("x", {}, "s", _build_three)["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("fault", [_FULL, (errno.EDQUOT, "Disk quota exceeded"), (errno.EROFS, "Read-only file system")])
def test_a_full_cache_while_files_are_read_is_the_cache_s_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fault: tuple[int, str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(*fault)

    monkeypatch.setattr(np, "save", fails)
    with pytest.raises(UserError, match=rf"{folder} \({fault[1]}\).*set DUALLOOP_CACHE"):
        cached("x", {}, "s", lambda part: {"rows": over_files("x", _rows, ["1", "2"], part, 1)})


def test_a_fault_of_the_source_is_not_the_cache_s(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cached("x", {}, "s", lambda _: {"a": np.load(tmp_path / "absent")})


def test_a_cache_cleared_while_it_is_used(folder: Path) -> None:
    def clearing(part: Path) -> dict[str, np.ndarray]:
        over_files("x", _rows, ["1", "2"], part, 1)
        shutil.rmtree(folder)
        return _build_three(part)

    with pytest.raises(UserError, match="no index can be kept in"):
        cached("x", {}, "s", clearing)
    index = cached("x", {}, "s", _build_three)
    copy = pickle.dumps(index)
    shutil.rmtree(folder)
    assert index["a"].tolist() == [0, 1, 2]  # its pages are mapped
    with pytest.raises(UserError, match="cleared while it was in use"):
        pickle.loads(copy)


def test_no_home_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("DUALLOOP_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(UserError, match="set DUALLOOP_CACHE"):
        cached("x", {}, "s", _build_three)


def test_a_file_system_that_maps_nothing_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(np, "memmap", fails)
    index = cached("x", {}, "s", lambda _: {"a": np.arange(6.0).reshape(2, 3), **pack("t", ["é", "b"])})
    np.testing.assert_array_equal(index["a"], np.arange(6.0).reshape(2, 3))
    assert index.text("t", 1) == "b"
