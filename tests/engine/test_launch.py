"""The command starts its own workers: whose words the user reads, which exit code comes back, and that no process stays behind."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from core.engine import checkpoint, runner
from core.engine.launch.start import _first_failure
from core.recipe import Recipe, resolved_yaml
from core.registry import Registry
from tests.engine.children import Command, free_port, workers
from tests.engine.distributed_worker import on_ranks
from tests.patience import HANGS_S

Make = Callable[..., Recipe]

# A "model" that ends rank 0 in some way; rank 1 waits for it. Each leaves its process id. Where ``early``, they do so while the recipe is
# checked, before torch is imported.
FAKE = """
from __future__ import annotations
import os, sys, time
from pathlib import Path
from core.contracts import Model, UserError

def act() -> None:
    Path("{pids}").mkdir(exist_ok=True)
    (Path("{pids}") / str(os.getpid())).touch()
    if "{mode}" == "joined":
        import torch.distributed as dist
        raise UserError(f"rank {{dist.get_rank()}} of {{dist.get_world_size()}} is here")
    if "{mode}" == "user" and os.environ["RANK"] == "0":
        raise UserError("the moon is too bright; wait for the day")
    if "{mode}" == "exit" and os.environ["RANK"] == "0":
        os._exit(5)
    time.sleep(600)

def model(*, checkpoint: str = "") -> Model:
    act()

if {early} and "RANK" in os.environ:
    act()
"""


# A model of a few hundred weights: a process of its own starts in a third of the time that transformers takes. Its updates are
# slow, so that there is time to kill; while there is a file hold-N, none is made after the checkpoint of update N.
SMALL = """
from __future__ import annotations
import time
from pathlib import Path
from core.contracts import Model
from core.engine.launch import stopping
from core.testing import TinyModel

def numbers(pattern: str) -> list[int]:
    return [int(path.name.split("-")[1]) for path in Path("{folder}").glob(pattern)]

class Slow(TinyModel):
    def encode(self, batch):
        while max(numbers("runs/*/checkpoints/update-*"), default=0) >= min(numbers("hold-*"), default=9999) and not stopping.asked():
            time.sleep(0.02)
        time.sleep(0.1)
        return super().encode(batch)

def model(*, checkpoint: str = "") -> Model:
    return Slow()
"""


def start(recipe: Path, *overrides: str, **variables: str) -> Command:
    return Command("core.run", recipe, "--quiet", *overrides, **variables)


def until(true: Callable[[], object], seconds: float = HANGS_S) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def fake(tiny: Make, tmp_path: Path) -> Callable[..., Path]:
    def make(mode: str, early: bool = False) -> Path:
        (tmp_path / "fake.py").write_text(FAKE.format(pids=tmp_path / "pids", mode=mode, early=early))
        recipe = tiny(f"model={{use: '{tmp_path}/fake.py:model'}}", "launch={strategy: ddp, processes: 2}")
        (tmp_path / "recipe.yaml").write_text(resolved_yaml(recipe, Registry()))
        return tmp_path / "recipe.yaml"

    return make


@pytest.fixture
def small(tiny: Make, tmp_path: Path) -> Callable[..., Recipe]:
    """The tiny recipe on a model that needs no transformers."""
    (tmp_path / "small.py").write_text(SMALL.format(folder=tmp_path))
    return lambda *overrides: tiny(f"model={{use: '{tmp_path}/small.py:model'}}", *overrides)


@pytest.mark.parametrize(
    ("mode", "early", "code", "words"),
    [
        ("user", False, 2, r"error: rank 0: \S+/recipe\.yaml:\d+: model: the moon is too bright; wait for the day\n"),
        ("exit", True, 5, r"error: rank 0 ended with exit code 5\n"),
    ],
)
def test_the_failing_ranks_words_and_exit_code(fake: Callable[..., Path], mode: str, early: bool, code: int, words: str) -> None:
    process = start(fake(mode, early))
    _, errors = process.communicate(HANGS_S)
    assert process.returncode == code
    assert re.fullmatch(words, errors), errors
    assert workers(process.pid) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("number", "early", "code"), [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143), (signal.SIGKILL, True, -9)]
)
def test_no_orphans(fake: Callable[..., Path], tmp_path: Path, number: signal.Signals, early: bool, code: int) -> None:
    process = start(fake("sleep", early))
    until(lambda: len(list((tmp_path / "pids").glob("*"))) == (2 if early else 1))  # rank 0 makes its model first
    assert len(workers(process.pid)) == 2
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # what Ctrl-C in a terminal does
    else:
        process.send_signal(number)
    _, errors = process.communicate(HANGS_S)
    assert process.returncode == code
    assert "Traceback" not in errors
    until(lambda: not workers(process.pid))


def test_under_torchrun_it_joins(fake: Callable[..., Path]) -> None:
    options = ("--nproc-per-node", 2, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0")
    process = Command("torch.distributed.run", *options, "-m", "core.run", fake("joined"), "--quiet")
    _, errors = process.communicate(HANGS_S)
    assert process.returncode == 1  # torchrun's own
    assert "model: rank 0 of 2 is here" in errors


def test_in_a_slurm_step_it_joins(fake: Callable[..., Path]) -> None:
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "MASTER_PORT": str(free_port())}
    recipe = fake("joined")
    tasks = [start(recipe, **step, SLURM_PROCID=str(number), SLURM_LOCALID=str(number)) for number in (0, 1)]
    told = [task.communicate(HANGS_S)[1] for task in tasks]
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
    process.communicate(HANGS_S)
    until(lambda: not any(Path(f"/proc/{loader}").exists() for loader in loaders))


def test_the_death_of_a_loaders_worker_is_one_sentence(small: Make, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(resolved_yaml(small("train.workers=1", "train.updates=500"), Registry()))
    process = start(recipe)
    family = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until(lambda: list((tmp_path / "runs").glob("*/checkpoints/update-000002")))
    os.kill(int(family.read_text().split()[0]), signal.SIGKILL)
    _, errors = process.communicate(HANGS_S)
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


# Rank 1 never comes to the exchange that follows. Only then is the time limit short: until the ranks have met and trained, how long
# they wait for each other depends on how busy the machine is.
HANG = """
from __future__ import annotations
import gc, signal, time
from datetime import timedelta
import torch.distributed as dist
from core.engine.parallel.exchange import Group
class Hang:
    def weights(self, gram):
        if dist.get_rank() == 1:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # or the launcher would wait half a minute before it kills
            time.sleep(3600)
        [group] = [one for one in gc.get_objects() if type(one) is Group]
        group.timeout_s = 3
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=3), None)
        return gram.scales.repeat(len(gram.groups), 1)
"""


def test_a_hanging_rank_is_what_the_user_reads_about(small: Make, tmp_path: Path) -> None:
    """And not that the launcher has then killed it."""
    (tmp_path / "hang.py").write_text(HANG)
    recipe = small(f"gradient={{use: '{tmp_path}/hang.py:Hang'}}", f"launch={{strategy: ddp, processes: 2, timeout_s: {HANGS_S}}}")
    (tmp_path / "recipe.yaml").write_text(resolved_yaml(recipe, Registry()))
    process = start(tmp_path / "recipe.yaml")
    _, errors = process.communicate(HANGS_S)
    assert process.returncode == 2
    assert "rank 1 has been silent for launch.timeout_s=3 seconds, since summing gradients" in errors
    assert "killed" not in errors
    assert workers(process.pid) == []


def test_a_run_on_two_processes_survives_the_death_of_one(small: Make, tmp_path: Path) -> None:
    """Killed after some updates and resumed, it arrives where one process arrives with the same global batch."""
    common = ["optimizer.eps=1.0e-3", "train.updates=12", "checkpoint.every=1"]
    recipe = small("launch={strategy: ddp, processes: 2, check_every: 1}", "train.batch_size=2", *common)
    file, runs = tmp_path / "recipe.yaml", Path(recipe.values["output"])
    file.write_text(resolved_yaml(recipe, Registry()))
    hold = tmp_path / "hold-2"
    hold.touch()
    broken = start(file)
    until(lambda: list(runs.glob("*/checkpoints/update-000002")))
    os.kill(max(workers(broken.pid)), signal.SIGKILL)
    _, errors = broken.communicate(HANGS_S)
    assert broken.returncode == 137
    assert errors.count("\n") == 1
    assert "was killed by SIGKILL" in errors
    assert workers(broken.pid) == []
    [folder] = runs.iterdir()
    assert checkpoint.list_checkpoints(folder / "checkpoints")[-1][0] == 2
    hold = hold.rename(tmp_path / "hold-5")
    asked = start(file, "launch.requeue=true")  # the same command goes on, and is asked to stop
    until(lambda: asked.poll() is not None or checkpoint.list_checkpoints(folder / "checkpoints")[-1][0] > 2)
    asked.send_signal(signal.SIGUSR1)
    _, errors = asked.communicate(HANGS_S)
    assert asked.returncode == 0, errors
    assert re.fullmatch(r"stopped by SIGUSR1 after update \d+ of \d+; --resume goes on from the last checkpoint\n", errors), errors
    assert workers(asked.pid) == []
    hold.unlink()
    on_ranks(2, [{"recipe": str(file), "resume": str(folder)}])
    assert [json.loads(line)["update"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == list(range(1, 13))
    alone = small(*common, f"output={tmp_path / 'alone'}")
    assert runner.run(alone, Registry(), quiet=True) == 0
    [other] = (tmp_path / "alone").iterdir()
    first, second = (load_file(path / "checkpoints" / "update-000012" / "trained.safetensors") for path in (folder, other))
    assert max(float((first[name] - second[name]).abs().max()) for name in second) < 1e-5
