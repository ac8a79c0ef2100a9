"""Checkpoints of a run: complete or absent, trained groups only, everything a bit-exact resume needs.

``checkpoints/update-000250/`` holds ``trained.safetensors`` (``group/name``), ``optimizer.safetensors``
(``group/name/exp_avg``...), ``state.json`` and, if there are any, ``own.safetensors`` (weights that loops brought themselves),
``teacher.safetensors`` and ``running.safetensors`` (a schedule's running gradient). It is written under a temporary name,
synced and renamed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.contracts import Teacher, UserError
from core.engine.best import best_update
from core.engine.parallel.gradients import Groups
from core.engine.parallel.step import State

NONE: Groups = MappingProxyType({})
MARGIN = 2**20  # bytes that a checkpoint may take besides its tensors
_NAME = re.compile(r"update-(\d+)")
_GO_ON = "; remove it, and --resume goes on from the one before"


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Complete checkpoints of a run, oldest first."""
    found = [(int(match[1]), path) for path in folder.glob("update-*") if (match := _NAME.fullmatch(path.name))]
    return sorted(found)


def update_of(path: Path) -> int:
    """How many updates were done at a checkpoint, by its folder's name."""
    return int(path.name.removeprefix("update-"))


def save(
    folder: Path,
    update: int,
    groups: Groups,
    optimizer: State,
    teacher: Teacher | None,
    state: Mapping[str, Any],
    keep: int,
    running: Mapping[str, Tensor] | None = None,
    own: Groups = NONE,
) -> Path:
    """Writes the checkpoint after ``update`` updates and removes all but the newest ``keep`` and the best one; returns its folder.

    Raises ``UserError`` where the disk does not take it; earlier checkpoints are as they were then.
    """
    target = folder / f"update-{update:06d}"
    beside = folder / f".{target.name}.part"
    files = {"trained": _values(groups), "optimizer": optimizer_tensors({**groups, **own}, optimizer)}
    if own:
        files["own"] = _values(own)
    if teacher is not None:
        files["teacher"] = {name: tensor.cpu().contiguous() for name, tensor in teacher.state_dict().items()}
    if running is not None:
        files["running"] = {name: tensor.cpu().contiguous() for name, tensor in running.items()}
    with _writing(folder, f"the checkpoint of update {update}"):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".update-*"):  # by a process that was killed
            shutil.rmtree(left)
        _require(folder, sum(tensor.nbytes for tensors in files.values() for tensor in tensors.values()))
        beside.mkdir()
        try:
            for name, tensors in files.items():
                _write(beside / f"{name}.safetensors", tensors)
            (beside / "state.json").write_text(json.dumps({"update": update, **state}, indent=2) + "\n", encoding="utf-8")
            for file in [*beside.iterdir(), beside]:
                _sync(file)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        if target.exists():
            _remove(target)
        beside.rename(target)
        _sync(folder)
    prune(folder, keep)
    return target


def prune(folder: Path, keep: int) -> None:
    """Removes all checkpoints but the newest ``keep`` and, however old, the best one that ``best.json`` names."""
    best = best_update(folder)
    for update, old in list_checkpoints(folder)[:-keep]:
        if update != best:
            _remove(old)


def check_space(folder: Path, needed: int) -> None:
    """Raises ``UserError`` unless ``needed`` bytes, and a little more for names, can be written into ``folder``."""
    with _writing(folder, "a checkpoint"):
        if not os.access(folder, os.W_OK):
            raise OSError("the folder or its disk is read-only")
        _require(folder, needed)


def _require(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + MARGIN:
        raise OSError(f"it needs {(needed + MARGIN) / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free")


@contextmanager
def _writing(folder: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{folder}: {what} cannot be written ({error}); earlier ones are untouched. Make room or give another disk, then --resume"
        ) from error


def _remove(path: Path) -> None:
    """Takes a checkpoint out of the list before its files go: one that is killed here leaves no half of it under its name."""
    hidden = path.with_name(f".{path.name}.old")
    path.rename(hidden)
    shutil.rmtree(hidden)


def _values(groups: Groups) -> dict[str, Tensor]:
    return {f"{group}/{name}": p.detach().cpu().contiguous() for group, members in groups.items() for name, p in members}


def load(path: Path, groups: Groups, optimizer: State, teacher: Teacher | None, own: Groups = NONE) -> dict[str, Any]:
    """Restores parameters and teacher in place, puts the optimizer's values into ``optimizer``; returns ``state.json``.

    Raises ``UserError`` on any mismatch.
    """
    with reading(path, _GO_ON):
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        trained = load_file(path / "trained.safetensors")
        stored = load_file(path / "optimizer.safetensors")
        brought = load_file(path / "own.safetensors") if (path / "own.safetensors").exists() else {}
        shadow = load_file(path / "teacher.safetensors") if teacher is not None else {}
    load_trained(trained, groups, path)
    load_trained(brought, own, path, "loops, with their own weights")
    for group, members in {**groups, **own}.items():
        for name, parameter in members:
            prefix = f"{group}/{name}/"
            values = {key.removeprefix(prefix): tensor for key, tensor in stored.items() if key.startswith(prefix)}
            # Adam's step counter stays on the CPU, its moments live with the parameter
            optimizer[parameter] = {key: value if key == "step" else value.to(parameter.device) for key, value in values.items()}
    if teacher is not None:
        teacher.load_state_dict(shadow)
    return state


def load_running(path: Path) -> dict[str, Tensor]:
    """The running gradient of a checkpoint. Raises ``UserError`` where it has none."""
    with reading(path, _GO_ON):
        return load_file(path / "running.safetensors")


@contextmanager
def reading(path: Path, advice: str = "") -> Iterator[None]:
    """Around reads of a checkpoint's files: what is missing or damaged is a ``UserError``, with ``advice``.

    What the system refuses (permissions, too many open files, a disk that fails, a name that is no text) goes on: the checkpoint may be
    whole.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, ValueError, SafetensorError) as error:
        if isinstance(error, SafetensorError) and re.search(r"os error \d|not valid UTF-8", str(error)):
            raise
        raise UserError(f"{path}: not a complete checkpoint ({error}){advice}") from None


@torch.no_grad()
def load_trained(trained: Mapping[str, Tensor], groups: Groups, where: Path, what: str = "model") -> None:
    """Copies stored parameters into ``groups``; names and shapes must agree. ``what`` of the recipe they belong to."""
    targets = {f"{group}/{name}": parameter for group, members in groups.items() for name, parameter in members}
    wrong = sorted(set(targets) ^ set(trained)) + [k for k in targets if k in trained and targets[k].shape != trained[k].shape]
    if wrong:
        raise UserError(f"{where}: does not fit this recipe's {what}; {len(wrong)} tensors differ, such as {', '.join(wrong[:4])}")
    for name, parameter in targets.items():
        parameter.copy_(trained[name])


def optimizer_tensors(groups: Groups, optimizer: State) -> dict[str, Tensor]:
    """The optimizer's state as named tensors."""
    return {
        f"{group}/{name}/{key}": value.detach().cpu().contiguous()
        for group, members in groups.items()
        for name, parameter in members
        for key, value in optimizer.get(parameter, {}).items()
    }


def _write(file: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file(dict(tensors), file)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
