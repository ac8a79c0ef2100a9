"""A checkpoint is complete or absent, also when the process is killed while it writes."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from core.contracts import UserError
from core.engine import checkpoint
from core.outside import sentence
from tests.engine.children import CHILDREN
from tests.patience import HANGS_S


def fresh() -> tuple[dict[str, list[tuple[str, nn.Parameter]]], torch.optim.AdamW]:
    layer = nn.Linear(64, 64)
    return {"layer": list(layer.named_parameters())}, torch.optim.AdamW(layer.parameters())


def save_twice(folder: Path, fatal: int) -> None:
    """Kills this process within the second save, at its step number ``fatal``."""
    groups, optimizer = fresh()
    calls = 0

    def counted(real: Callable[..., None]) -> Callable[..., None]:
        def step(*given: object) -> None:
            nonlocal calls
            calls += 1
            if update == 2 and calls == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*given)

        return step

    checkpoint._write, checkpoint._sync = counted(checkpoint._write), counted(checkpoint._sync)
    weight = groups["layer"][0][1]
    for update in (1, 2):
        calls = 0
        nn.init.constant_(weight, float(update))
        weight.sum().backward()
        optimizer.step()
        nn.init.constant_(weight, float(update))
        checkpoint.save(folder, update, groups, optimizer.state, None, {}, keep=2)


def ended(target: Callable[..., None], *given: object) -> int | None:
    """The exit code of a process that calls ``target``."""
    process = CHILDREN.Process(target=target, args=given)
    process.start()
    process.join(HANGS_S)
    return process.exitcode


@pytest.mark.parametrize("fatal", [1, 2, 3, 4, 6])
def test_killed_during_a_save_leaves_the_previous_checkpoint_loadable(tmp_path: Path, fatal: int) -> None:
    assert ended(save_twice, tmp_path, fatal) == -signal.SIGKILL
    [(update, path)] = checkpoint.list_checkpoints(tmp_path)
    groups, optimizer = fresh()
    assert checkpoint.load(path, groups, optimizer.state, None)["update"] == update == 1
    assert torch.equal(groups["layer"][0][1], torch.full((64, 64), 1.0))
    checkpoint.save(tmp_path, 2, groups, optimizer.state, None, {}, keep=1)  # and the next save succeeds
    assert [update for update, _ in checkpoint.list_checkpoints(tmp_path)] == [2]
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    groups, optimizer = fresh()
    path = checkpoint.save(tmp_path, 1, groups, optimizer.state, None, {}, keep=1)
    other = nn.Linear(3, 3)
    with pytest.raises(UserError, match="does not fit this recipe's model"):
        checkpoint.load(path, {"layer": list(other.named_parameters())}, torch.optim.AdamW(other.parameters()).state, None)
    os.truncate(path / "optimizer.safetensors", 9)
    with pytest.raises(UserError, match="not a complete checkpoint"):
        checkpoint.load(path, groups, optimizer.state, None)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied"),
        OSError(24, "Too many open files"),
        SafetensorError("Error while deserializing: I/O error: Input/output error (os error 5)"),
        SafetensorError("Path /runs/caf\ufffd is not valid UTF-8"),
    ],
)
def test_what_the_system_refuses_is_no_reason_to_remove_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(file: Path) -> None:
        raise error

    monkeypatch.setattr(checkpoint, "load_file", refuse)
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(type(error)) as told:
        checkpoint.load(tmp_path, {}, {}, None)
    assert told.value is error
    assert sentence(error) is not None


def test_a_full_disk_is_reported_before_anything_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, optimizer = fresh()
    first = checkpoint.save(tmp_path, 1, groups, optimizer.state, None, {}, keep=1)
    before = {file.name: file.read_bytes() for file in first.iterdir()}
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"checkpoint of update 2 cannot be written \(it needs 1 MB, 0 MB are free\); earlier ones are unt"):
        checkpoint.save(tmp_path, 2, groups, optimizer.state, None, {}, keep=1)
    assert {file.name: file.read_bytes() for file in first.iterdir()} == before


def save_with_little_room(folder: Path) -> None:
    groups, optimizer = fresh()
    checkpoint.save(folder / "checkpoints", 1, groups, optimizer.state, None, {}, keep=1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # the system refuses to write on, as a full disk does
    try:
        checkpoint.save(folder / "checkpoints", 2, groups, optimizer.state, None, {}, keep=1)
    except UserError as error:
        (folder / "said").write_text(str(error))


def test_a_disk_that_fills_up_while_writing_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    assert ended(save_with_little_room, tmp_path) == 0
    assert "the checkpoint of update 2 cannot be written" in (tmp_path / "said").read_text()
    [path] = (tmp_path / "checkpoints").iterdir()
    assert path.name == "update-000001"
    groups, optimizer = fresh()
    assert checkpoint.load(path, groups, optimizer.state, None)["update"] == 1


def test_where_no_folder_can_be_made(tmp_path: Path) -> None:
    groups, optimizer = fresh()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"update 1 cannot be written \(.*Not a directory"):
        checkpoint.save(tmp_path / "file" / "checkpoints", 1, groups, optimizer.state, None, {}, keep=1)


def test_a_checkpoint_is_out_of_the_list_before_its_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, optimizer = fresh()
    checkpoint.save(tmp_path, 1, groups, optimizer.state, None, {}, keep=1)

    def killed(path: Path, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, 2, groups, optimizer.state, None, {}, keep=1)
    assert [update for update, _ in checkpoint.list_checkpoints(tmp_path)] == [2]
    checkpoint.save(tmp_path, 3, groups, optimizer.state, None, {}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["update-000003"]
