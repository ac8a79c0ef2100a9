"""Workers that prepare samples ahead: what they hand over, how far ahead they go, and what is said when one of them fails."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.contracts import UserError
from core.engine.feed import Ahead, Supply, ahead
from core.engine.launch import Stopped, stopping
from core.engine.passing import Packed, receive
from core.engine.plan import Plan, Source
from core.engine.pool import Pool
from core.testing.tiny_model import TinyPreparation
from tests.engine.test_plan_and_feed import Numbers
from tests.patience import HANGS_S

MIB = 2**20


def passed(value: Any) -> Any:
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=Packed(value).send, args=(ours,))
    thread.start()
    got, _ = receive(theirs)
    thread.join()
    ours.close()
    theirs.close()
    return got


def test_tensors_of_all_kinds_arrive_as_they_are() -> None:
    weight = torch.nn.Parameter(torch.randn(3))
    twice = torch.randn(5, 7)
    values = {
        "flat": torch.arange(300_000, dtype=torch.uint8),  # more than a socket's buffer holds
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "none": torch.zeros(0, 4),
        "bool": torch.rand(3, 3) > 0.5,
        "half": torch.randn(5).bfloat16(),
        "turned": torch.arange(12.0).view(3, 4).t(),
        "every third": torch.arange(12)[::3],
        "complex": torch.randn(2, dtype=torch.complex64).conj(),
        "sparse": torch.eye(3).to_sparse(),
        "array": np.arange(6).reshape(2, 3),
        "words": ["\u00e9", None, 1],
    }
    got = passed(values)
    for name, value in values.items():
        if name == "sparse":
            assert torch.equal(got[name].to_dense(), torch.eye(3))
        elif isinstance(value, torch.Tensor):
            assert got[name].dtype == value.dtype, name
            assert torch.equal(got[name], value), name
        else:
            assert np.array_equal(got[name], value) if name == "array" else got[name] == value
    assert torch.equal(passed([weight])[0], weight)
    one, other = passed([twice, twice])
    assert torch.equal(one, twice)
    assert one.data_ptr() == other.data_ptr()
    assert len(Packed([twice, twice]).tensors) == 1


@pytest.fixture
def pool() -> Iterator[Callable[..., Pool]]:
    made: list[Pool] = []

    def make(carry_out: Callable[[Any], Any], requests: Any, workers: int = 2, most: int = 100 * MIB) -> Pool:
        made.append(Pool(carry_out, requests, workers, most))
        return made[-1]

    yield make
    for one in made:
        one.close()


def slow_first(number: int) -> int:
    time.sleep(0.3 if number == 2 else 0)
    return number


def test_results_come_in_the_order_of_the_requests(pool: Callable[..., Pool]) -> None:
    wanted = pool(slow_first, (("kind", number) for number in range(20)), workers=3)
    assert [wanted.take() for _ in range(20)] == list(range(20))
    with pytest.raises(RuntimeError, match="all requests are carried out"):
        wanted.take()


def of_size(mib: float) -> torch.Tensor:
    return torch.zeros(int(mib * MIB), dtype=torch.uint8)


def settled(pool: Pool) -> tuple[int, int]:
    """What is ahead once no worker is busy any more."""
    end = time.monotonic() + HANGS_S
    while pool._busy or len(pool._ready) == 0:
        assert time.monotonic() < end
        time.sleep(0.01)
    return pool.ahead


def test_what_is_ahead_is_bounded_in_bytes(pool: Callable[..., Pool]) -> None:
    wanted = pool(of_size, (("kind", 1.0) for _ in range(50)), workers=3, most=int(4.5 * MIB))
    for _ in range(10):
        count, size = settled(wanted)
        assert (count, size // MIB) == (4, 4)
        wanted.take()


def test_one_request_is_under_way_where_it_alone_is_too_large(pool: Callable[..., Pool]) -> None:
    wanted = pool(of_size, (("kind", 1.0) for _ in range(5)), workers=3, most=1000)
    for _ in range(5):
        assert settled(wanted)[0] == 1
        assert len(wanted.take()) == MIB


def test_a_kind_that_was_not_seen_yet_goes_alone(pool: Callable[..., Pool]) -> None:
    """Nothing is known of its size, and the first of them must not exceed the bound together."""
    wanted = pool(of_size, ((("large", 3.0) if number >= 2 else ("small", 0.1)) for number in range(6)), workers=4, most=4 * MIB)
    assert settled(wanted)[0] == 2
    wanted.take()
    assert settled(wanted)[0] == 1
    assert [len(wanted.take()) / MIB for _ in range(5)] == pytest.approx([0.1, 3, 3, 3, 3], abs=0.01)


def test_the_recipes_rule() -> None:
    assert ahead({"workers": 4, "prefetch_gib": 0.5}) == Ahead(4, 2**29)
    assert ahead({"workers": 0, "prefetch_gib": 0.5}) == Ahead(0, 0)


def failing(how: str) -> Any:
    if how == "raise":
        error = KeyError("box")
        error.add_note("loops.l.tasks.t.data.s, sample number 3")
        raise error
    if how == "files":
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "a.png")
    if how == "pickle":
        return lambda: 0
    if how == "exit":
        os._exit(7)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return how


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise", r"^loops\.l\.tasks\.t\.data\.s, sample number 3: KeyError: 'box' \(test_pool\.py, line \d+, in failing\), in a process "),
        ("files", r"^OSError: \[Errno 24\] Too many open files: 'a\.png' .*; raise the limit of open files \(ulimit -n\)$"),
        ("pickle", r"^\w+: .*failing.*train\.workers=0 shows"),
        ("exit", r"^a process that loads data is gone \(process \d+ ended with exit code 7\); the last checkpoint is kept"),
        ("kill", r"^a process that loads data is gone \(process \d+ was killed by SIGKILL\).*lower train\.workers"),
    ],
)
def test_a_failure_in_a_worker_is_a_sentence(pool: Callable[..., Pool], how: str, words: str) -> None:
    wanted = pool(failing, [("kind", "fine"), ("kind", how), ("kind", "fine")], workers=1)
    assert wanted.take() == "fine"
    with pytest.raises(UserError, match=words) as told:
        wanted.take()
    assert "\n" not in str(told.value)


def test_a_failure_while_requests_are_made_is_told(pool: Callable[..., Pool]) -> None:
    def requests() -> Iterator[tuple[str, int]]:
        yield "kind", 0
        yield "kind", 1
        raise UserError("the plan is broken")

    wanted = pool(slow_first, requests(), workers=1)
    with pytest.raises(UserError, match="the plan is broken"):
        [wanted.take() for _ in range(3)]


def test_a_process_that_cannot_be_started_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr("core.engine.pool._CONTEXT.Process.start", refuse)
    with pytest.raises(UserError, match=r"^train\.workers=2: the process number 1 cannot be started \(.*temporarily.*ulimit -u"):
        Pool(slow_first, [], 2, MIB)


_NARROW = """
import resource
from tests.engine.test_pool import supply
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
feeds = [supply(workers) for workers in (0, 3)]
for _ in range(6):
    first, second = (feed.take("l") for feed in feeds)
    assert first.ids == second.ids
print("the same")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a file system")
def test_small_shared_memory_few_files_and_a_long_folder_for_temporary_files_do_not_matter(tmp_path: Path) -> None:
    mount = "mount --make-rprivate / && mount -t tmpfs -o size=16k tmpfs /dev/shm"
    can = subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode == 0
    long = tmp_path / ("x" * 100)
    long.mkdir()
    command = ["sh", "-c", f'{mount}; exec "$@"', "sh", sys.executable, "-c", _NARROW]
    done = subprocess.run(
        ["unshare", "-m", *command] if can else command[3:],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"TMPDIR": str(long)},
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        check=False,
    )
    assert done.stdout == "the same\n", done.stderr


def supply(workers: int, dataset: Any = None, first: int = 0) -> Supply:
    plan = Plan([Source("l", "t", "s", dataset or Numbers(40), frozenset())], 5, 8)
    order = [(update, "l") for update in range(first, 20)]
    return Supply({"l": plan}, TinyPreparation(), order, 4, room=Ahead(workers, MIB))


class Stuck(Numbers):
    """Its samples never come."""

    def __getitem__(self, index: int) -> Any:
        time.sleep(HANGS_S)
        return super().__getitem__(index)


class Late(Numbers):
    """Its samples come once the file ``sent`` is there."""

    sent = Path()

    def __getitem__(self, index: int) -> Any:
        while not self.sent.exists():
            time.sleep(0.01)
        return super().__getitem__(index)


@pytest.fixture
def patient() -> Iterator[None]:
    with stopping.listening(), stopping.patiently():
        yield


def signal_in(seconds: float, times: int = 1, sent: Path | None = None) -> None:
    """``sent``: a file that is there afterwards."""

    def send() -> None:
        for _ in range(times):
            time.sleep(seconds)
            os.kill(os.getpid(), signal.SIGTERM)
        if sent is not None:
            sent.touch()

    threading.Thread(target=send, daemon=True).start()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("grace", "apart", "times"), [(0.3, 1000, 2), (1000, 0.0, 2)], ids=["after the grace", "at the second signal"])
def test_a_signal_ends_a_wait_for_samples(monkeypatch: pytest.MonkeyPatch, workers: int, grace: float, apart: float, times: int) -> None:
    monkeypatch.setattr(stopping, "GRACE_S", grace)
    monkeypatch.setattr(stopping, "_APART_S", apart)
    stuck = supply(workers, Stuck(40))
    signal_in(0.2, times)
    with pytest.raises(Stopped, match=r"^stopped by SIGTERM while it waited for samples; --resume"):
        stuck.take("l")
    stuck.close()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_wait_that_ends_in_time_is_not_broken_off(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "GRACE_S", float(HANGS_S))
    samples = Late(40)
    samples.sent = tmp_path / "sent"
    late = supply(workers, samples)
    signal_in(0.1, sent=samples.sent)
    assert len(late.take("l").ids["t"]) == 4
    assert stopping.asked() == signal.SIGTERM
    late.take("l")  # nor a later one
    late.close()


def test_loops_are_fed_in_the_order_of_the_schedule() -> None:
    plans = {name: Plan([Source(name, "t", "s", Numbers(40), frozenset())], 5, 8) for name in ("a", "b")}
    order = [(0, "a"), (0, "b"), (1, "b")]
    for workers in (0, 2):
        both = Supply(plans, TinyPreparation(), order, 8, room=Ahead(workers, MIB))
        assert both.take("a").loop == "a"
        assert both.take("b").loop == "b"
        with pytest.raises(RuntimeError, match="a asks for samples where b is next"):
            both.take("a")
        both.close()
