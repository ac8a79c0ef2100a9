"""Ranks that cannot meet: one sentence, soon. Names and ports that one machine alone does not need. The threads of each rank."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core import cores as cores_module
from core.contracts import UserError
from core.cores import cores
from core.engine.launch import devices, slurm, start
from core.engine.parallel import joining
from core.engine.parallel.exchange import join
from core.engine.parallel.joining import meet
from core.recipe import Recipe, resolved_yaml
from core.registry import Registry
from tests.engine.children import free_port
from tests.engine.test_launch import SMALL, until
from tests.patience import HANGS_S


@pytest.fixture
def port() -> int:
    """One at which nobody listens."""
    return free_port()


@pytest.fixture
def rank(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def be(rank: int, port: int, host: str = "127.0.0.1", world: int = 2) -> None:
        for name, value in {"RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": host, "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, str(value))

    return be


def test_a_task_that_is_missing(rank: Callable[..., None], port: int) -> None:
    rank(0, port)
    with pytest.raises(UserError, match=rf"^not all ranks have come to 127\.0\.0\.1:{port} within 1 s \(1/2 clients joined\); have"):
        meet(1)


def test_a_first_rank_that_is_missing(rank: Callable[..., None], port: int) -> None:
    rank(1, port)
    with pytest.raises(UserError, match=rf"^rank 0 is not reached at 127\.0\.0\.1:{port} .*refused, for \d+ s; has rank 0 started"):
        meet(1)


def test_a_name_that_nobody_knows(rank: Callable[..., None], port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "_UNKNOWN_S", 0.5)
    rank(1, port, "nowhere.invalid")
    with pytest.raises(UserError, match=r"^rank 0 is not reached at nowhere\.invalid:.*does `getent hosts nowhere\.invalid` know it"):
        meet(600)


def test_a_port_that_another_process_has(rank: Callable[..., None]) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        rank(0, taken.getsockname()[1])
        with pytest.raises(UserError, match=r"^the ranks are to meet at 127\.0\.0\.1:\d+, but another process has this port: set"):
            meet(600)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("MASTER_ADDR", "", r"^RANK=0 is set, but MASTER_ADDR is not: start it with torchrun or srun, or unset RANK"),
        ("MASTER_PORT", "70000", r"^the ranks cannot meet at 127\.0\.0\.1:70000 \(port must have value from 0 to 65535"),
        ("WORLD_SIZE", "two", r"^the ranks cannot meet at .*'two'"),
    ],
)
def test_an_environment_that_is_not_whole(
    rank: Callable[..., None], port: int, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    rank(0, port)
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=words):
        meet(600)


def test_fewer_tasks_than_the_recipe_asks_for(rank: Callable[..., None], port: int) -> None:
    rank(0, port)
    launch = {"strategy": "ddp", "processes": 4, "device": "cpu", "timeout_s": 5}
    with pytest.raises(UserError, match=r"^launch\.processes=4, but 2 started; set launch\.processes=2 or start as many"):
        join(launch)


def test_all_ranks_compute_on_the_same_kind_of_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from core.engine.parallel import exchange

    class Two(exchange.Alone):
        def __init__(self, *given: Any) -> None:
            self.device = "cpu"

        def gather(self, value: Any) -> list[Any]:
            return [value, "cuda"]

    monkeypatch.setattr(exchange, "Group", Two)
    with pytest.raises(UserError, match=r"^launch\.device=auto is cpu on rank 0, cuda on rank 1; set it to cpu or cuda for all"):
        join({"strategy": "ddp", "processes": 1, "device": "auto", "timeout_s": 5})


def test_a_slurm_step_on_one_node_needs_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "cores", lambda: 16)
    step = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NODELIST": "gpu-node-17", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}

    def threads(**more: str) -> str:
        environment = step | more
        slurm.adopt(environment)
        assert environment["MASTER_ADDR"] == "127.0.0.1"
        return environment["OMP_NUM_THREADS"]

    assert threads() == "4"
    assert threads(SLURM_CPUS_PER_TASK="6") == "6"
    assert threads(SLURM_CPUS_PER_TASK="40") == "16"
    assert threads(SLURM_CPU_BIND_TYPE="mask_cpu:") == "16"
    assert threads(OMP_NUM_THREADS="3") == "3"


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000"}, 8),
        ("0::/\n", {"cpu.max": "250000 100000"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/jobs/one\n", {"jobs/cpu.max": "300000 100000", "jobs/one/cpu.max": "max 100000"}, 3),
        ("0::/host/only\n", {"cpu.max": "400000 100000"}, 4),  # a container names its group as its host does
        ("4:memory:/x\n3:cpu,cpuacct:/x\n", {"cpu,cpuacct/x/cpu.cfs_quota_us": "200000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"}, 2),
        ("3:cpu:/gone\n", {"cpu/cpu.cfs_quota_us": "500000", "cpu/cpu.cfs_period_us": "100000"}, 5),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ],
)
def test_cores_are_those_that_the_control_group_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, files: dict[str, str], expected: int
) -> None:
    (tmp_path / "cgroup").write_text(lines)
    for name, text in files.items():
        (tmp_path / "mounted" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mounted" / name).write_text(text + "\n")
    monkeypatch.setattr(cores_module, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores_module, "_MOUNTED", tmp_path / "mounted")
    monkeypatch.setattr(cores_module, "bound", lambda: 8)
    assert cores() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot be bound here")
def test_cores_are_those_that_the_process_is_bound_to() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_what_torch_is_told_before_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for found, there, expected in ((4, 64, "4"), (64, 64, None)):
        monkeypatch.setattr(devices, "cores", lambda found=found: found)
        monkeypatch.setattr(devices, "bound", lambda there=there: there)
        environment: dict[str, str] = {}
        devices.prepare(environment)
        assert environment.get("OMP_NUM_THREADS") == expected
        assert environment["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
        devices.set_threads(environment, 2)  # what the launcher then divides
        assert environment["OMP_NUM_THREADS"] == "2"
    own = {"OMP_NUM_THREADS": "7", "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:512"}
    given = dict(own)
    devices.prepare(own)
    devices.set_threads(own, 2)
    assert own == given


def test_auto_is_cuda_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = {"strategy": "ddp", "processes": 2, "device": "auto"}
    for found, device in ((0, "cpu"), (1, "cuda"), (2, "cuda")):
        monkeypatch.setattr(devices, "gpus", lambda found=found: found)
        assert devices.device_of(launch) == device
        assert (devices.cannot_start(launch) is None) == (found != 1)
        assert devices.device_of(launch | {"device": "cpu"}) == "cpu"
    monkeypatch.setattr(devices, "_shared_bytes", lambda: 64 * 2**20)
    assert [note.partition(",")[0] for note in devices.device_notes(launch)] == ["/dev/shm has 64 MiB free"]
    assert list(devices.device_notes(launch | {"device": "cpu"})) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert list(devices.device_notes(launch | {"device": "cpu"})) == []


def test_a_machine_without_a_loopback_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*given: Any) -> socket.socket:
        raise OSError(101, os.strerror(101))

    monkeypatch.setattr(socket, "create_connection", unreachable)
    with pytest.raises(UserError, match=r"^the processes cannot meet at 127\.0\.0\.1 \(.*unreachable\); is the network interface lo up"):
        start.start_workers({"strategy": "ddp", "processes": 2, "device": "cpu"}, [])


def test_what_was_ignored_stays_ignored() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)}
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # however the tests were started
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        assert "SIGHUP" not in start._handled()
        assert {"SIGINT", "SIGQUIT"} <= set(start._handled())
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)  # a shell's background job
        assert "SIGQUIT" not in start._handled()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.skipif(sys.platform != "linux", reason="gives the machine another name")
def test_two_processes_need_no_name_of_their_machine_and_outlive_the_terminal(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    """In a folder with a ``core`` of its own, under a name that resolves to an address which is not reached, after SIGHUP."""
    (tmp_path / "small.py").write_text(SMALL.format(folder=tmp_path))
    more = ("launch={strategy: ddp, processes: 2}", "train.updates=6", "train.batch_size=1")
    recipe = tiny(f"model={{use: '{tmp_path}/small.py:model'}}", *more)
    (tmp_path / "recipe.yaml").write_text(resolved_yaml(recipe, Registry()))
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n10.255.255.1 gpu-node-17\n")
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "__init__.py").touch()
    renamed = f"hostname gpu-node-17 && mount --make-rprivate / && mount --bind {tmp_path}/hosts /etc/hosts"
    can = subprocess.run(["unshare", "-u", "-m", "sh", "-c", renamed], capture_output=True, check=False).returncode == 0
    by = (["unshare", "-u", "-m"] if can else []) + ["sh", "-c", f"{renamed if can else ':'}; trap '' HUP; exec \"$@\"", "sh"]
    command = [*by, sys.executable, "-P", "-m", "core.run", str(tmp_path / "recipe.yaml"), "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment, start_new_session=True
    )
    runs = Path(recipe.values["output"])
    until(lambda: process.poll() is not None or list(runs.glob("*/checkpoints/update-000002")))
    os.killpg(process.pid, signal.SIGHUP)
    _, errors = process.communicate(timeout=HANGS_S)
    assert (process.returncode, errors) == (0, "")
    assert list(runs.glob("*/checkpoints/update-000006"))
