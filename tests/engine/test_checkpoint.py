"""A checkpoint is complete or absent, also when the process is killed while it writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from core.contracts import UserError
from core.engine import checkpoint

SCRIPT = """
import os, signal, sys
import torch
from pathlib import Path
from torch import nn
from core.engine import checkpoint

folder, fatal = Path(sys.argv[1]), int(sys.argv[2])
layer = nn.Linear(64, 64)
groups = {"layer": list(layer.named_parameters())}
optimizer = torch.optim.AdamW(layer.parameters())
calls = 0
real = {name: getattr(checkpoint, name) for name in ("_write", "_sync")}

def counted(name):
    def step(*given):
        global calls
        calls += 1
        if calls == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        real[name](*given)
    return step

checkpoint._write, checkpoint._sync = counted("_write"), counted("_sync")
for update in (1, 2):
    if update == 1:
        fatal, chosen = 0, fatal
    else:
        fatal, calls = chosen, 0
    nn.init.constant_(layer.weight, float(update))
    layer(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    nn.init.constant_(layer.weight, float(update))
    checkpoint.save(folder, update, groups, optimizer, None, {}, keep=2)
print("finished")
"""


def fresh() -> tuple[dict[str, list[tuple[str, nn.Parameter]]], torch.optim.AdamW]:
    layer = nn.Linear(64, 64)
    return {"layer": list(layer.named_parameters())}, torch.optim.AdamW(layer.parameters())


@pytest.mark.parametrize("fatal", [1, 2, 3, 4, 6])
def test_killed_during_a_save_leaves_the_previous_checkpoint_loadable(tmp_path: Path, fatal: int) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path), str(fatal)], capture_output=True, cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    [(update, path)] = checkpoint.list_checkpoints(tmp_path)
    groups, optimizer = fresh()
    assert checkpoint.load(path, groups, optimizer, None)["update"] == update == 1
    assert torch.equal(groups["layer"][0][1], torch.full((64, 64), 1.0))


def test_a_save_after_the_kill_succeeds(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path), "2"], capture_output=True, cwd=Path(__file__).parents[2])
    groups, optimizer = fresh()
    checkpoint.save(tmp_path, 2, groups, optimizer, None, {}, keep=1)
    assert [update for update, _ in checkpoint.list_checkpoints(tmp_path)] == [2]
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    groups, optimizer = fresh()
    path = checkpoint.save(tmp_path, 1, groups, optimizer, None, {}, keep=1)
    other = nn.Linear(3, 3)
    with pytest.raises(UserError, match="does not fit this recipe's model"):
        checkpoint.load(path, {"layer": list(other.named_parameters())}, torch.optim.AdamW(other.parameters()), None)
    os.truncate(path / "optimizer.safetensors", 9)
    with pytest.raises(UserError, match="not a complete checkpoint"):
        checkpoint.load(path, groups, optimizer, None)
