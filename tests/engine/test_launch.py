"""The command starts its own workers: whose words the user reads, which exit code comes back, and that no process stays behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from core.engine import checkpoint, launch, runner
from core.engine.launch.start import _first_failure
from core.recipe import Recipe, resolved_yaml
from core.registry import Registry
from tests.engine.distributed_worker import on_ranks

Make = Callable[..., Recipe]

# A "model" that ends rank 0 in some way; rank 1 waits for it. Each leaves its process id.
FAKE = """
from __future__ import annotations
import os, sys, time
from pathlib import Path
from typing import Literal
from core.contracts import Model, UserError

def model(*, pids: str, mode: Literal["user", "exit", "crash", "sleep", "joined"], checkpoint: str = "") -> Model:
    Path(pids).mkdir(exist_ok=True)
    (Path(pids) / str(os.getpid())).touch()
    if mode == "joined":
        import torch.distributed as dist
        raise UserError(f"rank {dist.get_rank()} of {dist.get_world_size()} is here")
    if mode == "user":
        raise UserError("the moon is too bright; wait for the day")
    if mode == "exit":
        sys.exit(5)
    if mode == "crash":
        raise KeyError("boom")
    time.sleep(60)
"""


# A model of a few hundred weights: a process of its own starts in a third of the time that transformers takes. Its updates are
# slow, so that there is time to kill.
SMALL = """
from __future__ import annotations
import time
from core.contracts import Model
from core.testing import TinyModel

class Slow(TinyModel):
    def encode(self, batch):
        time.sleep(0.1)
        return super().encode(batch)

def model(*, checkpoint: str = "") -> Model:
    return Slow()
"""


def start(recipe: Path, *overrides: str, by: Sequence[str] = (sys.executable,), **variables: str) -> subprocess.Popen[str]:
    """The command in a process group of its own, as a shell starts it."""
    ours = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    environment = {k: v for k, v in os.environ.items() if k not in ours} | {"OMP_NUM_THREADS": "1"} | variables
    command = [*by, "-m", "core.run", str(recipe), "--quiet", *overrides]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def workers(launcher: int) -> list[int]:
    """The living processes that a command has started, directly or not."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            started = f"{launch.LAUNCHER}={launcher}\0".encode() in (entry / "environ").read_bytes()
            alive = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:  # gone, or another user's
            continue
        if started and alive:
            found.append(int(entry.name))
    return found


def until(true: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def fake(tiny: Make, tmp_path: Path) -> Callable[[str], Path]:
    def make(mode: str) -> Path:
        (tmp_path / "fake.py").write_text(FAKE)
        recipe = tiny(
            f"model={{use: '{tmp_path}/fake.py:model', pids: '{tmp_path}/pids', mode: {mode}}}",
            "launch={strategy: ddp, processes: 2}",
        )
        (tmp_path / "recipe.yaml").write_text(resolved_yaml(recipe, Registry()))
        return tmp_path / "recipe.yaml"

    return make


@pytest.fixture
def small(tiny: Make, tmp_path: Path) -> Callable[..., Recipe]:
    """The tiny recipe on a model that needs no transformers."""
    (tmp_path / "small.py").write_text(SMALL)
    return lambda *overrides: tiny(f"model={{use: '{tmp_path}/small.py:model'}}", *overrides)


@pytest.mark.parametrize(
    ("mode", "code", "words"),
    [
        ("user", 2, r"error: rank 0: \S+/recipe\.yaml:\d+: model: the moon is too bright; wait for the day\n"),
        ("exit", 5, r"error: rank 0 ended with exit code 5\n"),
    ],
)
def test_the_failing_ranks_words_and_exit_code(fake: Callable[[str], Path], mode: str, code: int, words: str) -> None:
    process = start(fake(mode))
    _, errors = process.communicate(timeout=180)
    assert process.returncode == code
    assert re.fullmatch(words, errors), errors
    assert workers(process.pid) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_no_orphans(fake: Callable[[str], Path], tmp_path: Path, number: signal.Signals, code: int) -> None:
    process = start(fake("sleep"))
    until(lambda: list((tmp_path / "pids").glob("*")))
    assert len(workers(process.pid)) == 2
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # what Ctrl-C in a terminal does
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == code
    assert "Traceback" not in errors
    until(lambda: not workers(process.pid), 5)


def test_under_torchrun_it_joins(fake: Callable[[str], Path]) -> None:
    by = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
    )
    process = start(fake("joined"), by=by)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 1  # torchrun's own
    assert "model: rank 0 of 2 is here" in errors


def test_in_a_slurm_step_it_joins(fake: Callable[[str], Path]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "MASTER_PORT": str(port)}
    recipe = fake("joined")
    tasks = [start(recipe, **step, SLURM_PROCID=str(number), SLURM_LOCALID=str(number)) for number in (0, 1)]
    told = [task.communicate(timeout=180)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [2, 2]
    assert "model: rank 0 of 2 is here" in told[0]
    assert "rank 1 lost the other ranks" in told[1]


def test_the_loaders_workers_do_not_outlive_a_killed_run(small: Make, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(resolved_yaml(small("train.workers=2", "train.updates=500"), Registry()))
    process = start(recipe)
    family = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until(lambda: list((tmp_path / "runs").glob("*/checkpoints/update-000002")))
    loaders = [int(child) for child in family.read_text().split()]
    assert len(loaders) >= 2
    for loader in loaders:  # a scheduler sends its signals to every process of a job
        os.kill(loader, signal.SIGTERM)
    time.sleep(0.2)
    assert all(Path(f"/proc/{loader}").exists() for loader in loaders)
    process.kill()
    process.communicate(timeout=180)
    until(lambda: not any(Path(f"/proc/{loader}").exists() for loader in loaders), 5)


def test_the_death_of_a_loaders_worker_is_one_sentence(small: Make, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(resolved_yaml(small("train.workers=1", "train.updates=500"), Registry()))
    process = start(recipe)
    family = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until(lambda: list((tmp_path / "runs").glob("*/checkpoints/update-000002")))
    os.kill(int(family.read_text().split()[0]), signal.SIGKILL)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 2
    words = r"error: a process that loads data is gone \(process \d+ was killed by SIGKILL\); the last checkpoint is kept, .*\n"
    assert re.fullmatch(words, errors), errors


def failure(exitcode: int, timestamp: int = 100, **told: object) -> SimpleNamespace:
    return SimpleNamespace(exitcode=exitcode, timestamp=timestamp, error_file_data=told)


def test_a_rank_that_only_lost_the_others_is_not_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    lost = failure(2, words="error: rank 0 lost the others", lost=True, time=99.0)
    assert _first_failure({0: lost, 1: failure(1, words="rank 1 failed:\nValueError: x\n", lost=False, time=99.5)}) == 1
    assert _first_failure({0: lost, 2: failure(-9)}) == 137
    assert capsys.readouterr().err == (
        "rank 1 failed:\nValueError: x\nerror: rank 2 was killed by SIGKILL; the last checkpoint is kept, --resume continues from it\n"
    )


HANG = """
from __future__ import annotations
import signal, time
import torch.distributed as dist
class Hang:
    def weights(self, gram):
        if dist.get_rank() == 1:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # or the launcher would wait half a minute before it kills
            time.sleep(600)
        return gram.scales.repeat(len(gram.groups), 1)
"""


def test_a_hanging_rank_is_what_the_user_reads_about(small: Make, tmp_path: Path) -> None:
    """And not that the launcher has then killed it."""
    (tmp_path / "hang.py").write_text(HANG)
    recipe = small(f"gradient={{use: '{tmp_path}/hang.py:Hang'}}", "launch={strategy: ddp, processes: 2, timeout_s: 8}")
    (tmp_path / "recipe.yaml").write_text(resolved_yaml(recipe, Registry()))
    process = start(tmp_path / "recipe.yaml")
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 2
    assert "rank 1 has been silent for launch.timeout_s=8 seconds, since summing gradients" in errors
    assert "killed" not in errors
    assert workers(process.pid) == []


def test_a_run_on_two_processes_survives_the_death_of_one(tiny: Make, tmp_path: Path) -> None:
    """Killed after some updates and resumed, it arrives where one process arrives with the same global batch."""
    common = ["optimizer.eps=1.0e-3", "model.lora={r: 4, alpha: 8, dropout: 0.0}", "train.updates=12", "checkpoint.every=1"]
    recipe = tiny("launch={strategy: ddp, processes: 2, check_every: 1}", "train.batch_size=1", *common)
    file, runs = tmp_path / "recipe.yaml", Path(recipe.values["output"])
    file.write_text(resolved_yaml(recipe, Registry()))
    broken = start(file)
    until(lambda: list(runs.glob("*/checkpoints/update-000002")))
    os.kill(max(workers(broken.pid)), signal.SIGKILL)
    _, errors = broken.communicate(timeout=180)
    assert broken.returncode == 137
    assert errors.count("\n") == 1
    assert "was killed by SIGKILL" in errors
    assert workers(broken.pid) == []
    [folder] = runs.iterdir()
    reached = checkpoint.list_checkpoints(folder / "checkpoints")[-1][0]
    asked = start(file, "launch.requeue=true")  # the same command goes on, and is asked to stop
    until(lambda: asked.poll() is not None or checkpoint.list_checkpoints(folder / "checkpoints")[-1][0] > reached)
    asked.send_signal(signal.SIGUSR1)
    _, errors = asked.communicate(timeout=180)
    assert asked.returncode == 0, errors
    assert re.fullmatch(r"stopped by SIGUSR1 after update \d+ of \d+; --resume goes on from the last checkpoint\n", errors), errors
    assert workers(asked.pid) == []
    on_ranks(2, [{"recipe": str(file), "resume": str(folder)}])
    assert [json.loads(line)["update"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == list(range(1, 13))
    alone = tiny(*common, f"output={tmp_path / 'alone'}")
    assert runner.run(alone, Registry(), quiet=True) == 0
    [other] = (tmp_path / "alone").iterdir()
    first, second = (load_file(path / "checkpoints" / "update-000012" / "trained.safetensors") for path in (folder, other))
    assert max(float((first[name] - second[name]).abs().max()) for name in second) < 1e-5
