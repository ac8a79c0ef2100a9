"""What a run does about signals, numbers that are not finite and another number of processes."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.commands.run import main
from core.contracts import UserError
from core.engine import building, going_on, runner
from core.engine.launch import stopping
from core.engine.update import Trainer
from core.recipe import Recipe, resolved_yaml
from core.registry import Registry

Make = Callable[..., Recipe]

# A tracker that sends its own process a signal, once, when the update ``at`` is logged.
SIGNAL = """
from __future__ import annotations
import os
from pathlib import Path
class Signal:
    def __init__(self, *, number: int, at: int, sent: str) -> None:
        self.number, self.at, self.sent = number, at, Path(sent)
    def start(self, run): ...
    def log(self, update, values):
        if update == self.at and not self.sent.exists():
            self.sent.touch()
            os.kill(os.getpid(), self.number)
    def picture(self, update, name, path): ...
    def finish(self, summary): ...
"""

# A loss that is not finite in the given updates; a gradient op with a state, which is the number of its calls.
PARTS = """
from __future__ import annotations
import torch
class Sometimes:
    weight = 1.0
    calls = 0
    def __init__(self, *, bad: list[int], gradient_only: bool = False) -> None:
        self.bad, self.gradient_only = bad, gradient_only
    def __call__(self, states, tokens, head):
        call, self.calls = self.calls, self.calls + 1
        if call not in self.bad:
            return states.square().sum()
        return _Fine.apply(states) if self.gradient_only else states.sum() * float("inf")
class _Fine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states):
        ctx.shape = states.shape
        return states.detach().sum()
    @staticmethod
    def backward(ctx, grad):
        return torch.full(ctx.shape, float("nan"))
class Counting:
    def __init__(self) -> None:
        self.calls = 0
    def weights(self, gram):
        self.calls += 1
        return gram.scales.repeat(len(gram.groups), 1) / self.calls
    def state_dict(self):
        return {"calls": self.calls}
    def load_state_dict(self, state):
        self.calls = state["calls"]
"""


@pytest.fixture
def file(tiny: Make, tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe as a file that the command can run."""

    def make(*overrides: str) -> Path:
        (tmp_path / "signal.py").write_text(SIGNAL)
        (tmp_path / "parts.py").write_text(PARTS)
        (tmp_path / "recipe.yaml").write_text(resolved_yaml(tiny("checkpoint.every=100", *overrides), Registry()))
        return tmp_path / "recipe.yaml"

    return make


def only(folder: Path) -> Path:
    [found] = folder.iterdir()
    return found


def kept(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def trained(run: Path, update: int = 4) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"update-{update:06d}" / "trained.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_signal_saves_and_the_requeued_command_goes_on_bit_for_bit(
    file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    op = f"gradient={{use: '{tmp_path}/parts.py:Counting'}}"
    sender = f"track={{s: {{use: '{tmp_path}/signal.py:Signal', number: {int(signal.SIGUSR1)}, at: 2, sent: {tmp_path}/sent}}}}"
    recipe = file(op, sender, "launch.requeue=true")
    before = signal.getsignal(signal.SIGUSR1)
    assert main([str(recipe), "--quiet"]) == 0
    assert signal.getsignal(signal.SIGUSR1) == before
    run = only(tmp_path / "runs")
    assert kept(run) == ["update-000002"]
    assert (tmp_path / "asked").read_text() == "requeue 77\n"
    assert "stopped by SIGUSR1 after update 2 of 4" in capsys.readouterr().err
    assert main([str(recipe), "--quiet"]) == 0  # the same command
    assert kept(only(tmp_path / "runs")) == ["update-000002", "update-000004"]
    assert main([str(recipe), "--quiet", f"output={tmp_path}/whole"]) == 0  # the signal is sent once only
    assert same(trained(run), trained(only(tmp_path / "whole")))
    assert main([str(recipe), "--quiet", "train.updates=1"]) == 0  # what has finished is not gone on with
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_sigterm_without_requeue_saves_and_says_what_stopped_it(
    file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = file(f"track={{s: {{use: '{tmp_path}/signal.py:Signal', number: {int(signal.SIGTERM)}, at: 3, sent: {tmp_path}/sent}}}}")
    assert main([str(recipe), "--quiet"]) == 143
    assert kept(only(tmp_path / "runs")) == ["update-000003"]
    assert capsys.readouterr().err == "stopped by SIGTERM after update 3 of 4; --resume goes on from the last checkpoint\n"


def test_a_signal_outside_the_updates_ends_the_run_at_once() -> None:
    with pytest.raises(stopping.Stopped) as stopped, stopping.listening():
        signal.raise_signal(signal.SIGTERM)
    assert (stopped.value.exit_code(requeue=False), stopped.value.exit_code(requeue=True)) == (143, 0)


@pytest.mark.parametrize("gradient_only", [False, True], ids=["loss", "gradient"])
def test_what_is_not_finite_is_skipped_counted_and_saved(
    tiny: Make, file: Callable[..., Path], tmp_path: Path, gradient_only: bool
) -> None:
    file()
    loss = f"{{use: '{tmp_path}/parts.py:Sometimes', bad: [1], gradient_only: {str(gradient_only).lower()}}}"
    op = f"gradient={{use: '{tmp_path}/parts.py:Counting'}}"
    recipe = tiny(f"loops.loop2.tasks.cycle.losses.caption={loss}", op, "train.max_bad_updates=1", "checkpoint={every: 1, keep: 4}")
    assert runner.run(recipe, Registry(), quiet=True) == 0
    run = only(tmp_path / "runs")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["optimizer/skipped"] for line in lines] == [0, 1, 1, 1]
    assert [("loop2/loss" in line.get("non_finite", [])) for line in lines] == [False, not gradient_only, False, False]
    assert same(trained(run, 2), trained(run, 1))
    assert not same(trained(run, 3), trained(run, 2))
    state = json.loads((run / "checkpoints" / "update-000004" / "state.json").read_text())
    assert (state["skipped"], state["gradient_op"]) == (1, {"calls": 3})
    report = json.loads((run / "not_finite-000001.json").read_text())
    assert report["update"] == 1
    assert len(report["samples"]["loop2/cycle"]) == 4
    assert any(task.startswith("loop1/") for task in report["samples"]) == gradient_only  # its cause is not known
    assert all(torch.isfinite(tensor).all() for tensor in trained(run).values())
    with pytest.raises(UserError, match=r"in update 1 is NaN or Inf; .*train\.max_bad_updates"):
        runner.run(tiny(f"loops.loop2.tasks.cycle.losses.caption={loss}"), Registry(), quiet=True)


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_skipped_first_update_moves_the_rate_without_a_warning_of_torch(tiny: Make, file: Callable[..., Path], tmp_path: Path) -> None:
    file()
    loss = f"{{use: '{tmp_path}/parts.py:Sometimes', bad: [0]}}"
    trainer = building.build_run(
        tiny(f"loops.loop2.tasks.cycle.losses.caption={loss}", "train.max_bad_updates=1", "optimizer.schedule=cosine"),
        Registry(),
        tmp_path,
        None,
    ).trainer
    seen = [trainer.update(number) for number in range(2)]
    assert [values["optimizer/skipped"] for values in seen] == [1, 1]
    assert trainer.rate.last_epoch == 2
    assert seen[1]["optimizer/lr"] < seen[0]["optimizer/lr"]


def test_resume_may_divide_the_batch_otherwise_but_not_change_it(tiny: Make, tmp_path: Path) -> None:
    common = ["optimizer.eps=1.0e-3", "model.lora={r: 4, alpha: 8, dropout: 0.0}"]
    assert runner.run(tiny(*common), Registry(), quiet=True) == 0
    run = only(tmp_path / "runs")
    whole = trained(run)
    for path in (run / "checkpoints").glob("*4"):
        path.rename(tmp_path / path.name)
    with pytest.raises(UserError, match=r"made with 4 samples per update and loop, this asks for 2; choose train\.batch_size x"):
        runner.run(tiny(*common, "train.batch_size=2"), Registry(), resume=run, quiet=True)
    other = tiny(*common, "train.accumulate=4", "train.batch_size=1")
    assert runner.run(other, Registry(), resume=run, quiet=True) == 0
    again = trained(run)
    assert max(float((whole[name] - again[name]).abs().max()) for name in whole) < 1e-5


FULL = """
from __future__ import annotations
class Full:
    def __init__(self, *, name: str) -> None:
        self.name = name
    def start(self, run):
        (run.folder / self.name).symlink_to("/dev/full")
    def log(self, update, values): ...
    def picture(self, update, name, path): ...
    def finish(self, summary): ...
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("name", ["result.json.new", "not_finite-000000.json"])
def test_a_disk_that_is_full_outside_a_checkpoint_is_one_sentence(
    file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "full.py").write_text(FULL)
    more = [f"track={{f: {{use: '{tmp_path}/full.py:Full', name: {name}}}}}"]
    if name.startswith("not_finite"):
        more.append(f"loops.loop2.tasks.cycle.losses.caption={{use: '{tmp_path}/parts.py:Sometimes', bad: [0]}}")
    assert main([str(file(*more)), "--quiet"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {tmp_path}/runs: No space left on device; make room, or give another place; checkpoints that"), told
    assert "Traceback" not in told
    assert kept(only(tmp_path / "runs")) == ["update-000004"] if name == "result.json.new" else True


def test_a_run_folder_that_is_not_complete_is_removed(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(going_on, "write_whole", full)
    with pytest.raises(UserError, match="runs: No space left on device; make room"):
        runner.run(tiny(), Registry(), quiet=True)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_folder_in_which_checkpoints_could_not_be_read_is_refused(tiny: Make, tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(UserError, match=r"holds bytes that are no UTF-8 text; rename that file or folder"):
        runner.run(tiny(f"output={odd}"), Registry(), quiet=True)
    assert not os.path.exists(odd)


def test_a_run_folder_that_cannot_be_made(tiny: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"output: the run folder .* cannot be made"):
        runner.run(tiny(f"output={tmp_path}/file/runs"), Registry(), quiet=True)


def test_a_signal_while_samples_are_waited_for_keeps_every_finished_update(
    file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = Trainer.update

    def update(self: Trainer, number: int) -> dict[str, float]:
        if number == 3 and not (tmp_path / "sent").exists():
            (tmp_path / "sent").touch()
            self.loops["loop1"].feed.update()  # the wait of loop 2 is the one that is broken off
            raise stopping.Stopped(signal.SIGTERM, "while it waited for samples")
        return plain(self, number)

    monkeypatch.setattr(Trainer, "update", update)
    recipe = file()  # whose checkpoint.every is 100
    assert main([str(recipe), "--quiet"]) == 143
    run = only(tmp_path / "runs")
    assert kept(run) == ["update-000003"]
    assert capsys.readouterr().err == "stopped by SIGTERM while it waited for samples; --resume goes on from the last checkpoint\n"
    assert main([str(recipe), "--quiet", "--resume", str(run)]) == 0
    assert main([str(recipe), "--quiet", f"output={tmp_path}/whole"]) == 0
    assert same(trained(run), trained(only(tmp_path / "whole")))
