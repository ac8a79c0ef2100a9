"""Trained tensors of another training, put into the published checkpoint that it started from.

Token embeddings and output layer are never taken: training overwrites their special rows, and [SEG] is then no longer generated.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from core.contracts import UserError
from plugins.models.sa2va.model import Sa2va
from plugins.models.sa2va.published.config import read_config
from plugins.models.sa2va.published.export import is_trained, trained_names
from plugins.models.sa2va.published.folder import stored_tensors
from plugins.models.sa2va.published.keys import is_memory, place, published_names
from plugins.models.sa2va.published.load import load_folder
from plugins.models.sa2va.published.training_file import Stored, read_trained
from plugins.models.sa2va.published.weights import native_tensors, spread


def load_over(file: Path, checkpoint: Path, lora_alpha: int | None, lora_dropout: float, dtype: str, max_tiles: int) -> Sa2va:
    """See ``components.load_legacy``."""
    read_config(checkpoint)  # before a large file is read
    stored = read_trained(file, lora_alpha, lora_dropout)
    model = load_folder(checkpoint, stored.lora, dtype=dtype, max_tiles=max_tiles)
    _fill(model, stored)
    model.origin = Overlaid(model, checkpoint)
    return model


class Overlaid:
    """Obeys ``model.Origin``. Values are read from the base when they are asked for: nothing is held of them until then."""

    def __init__(self, model: Sa2va, base: Path) -> None:
        self._base, self._names = base, trained_names(model)
        # (group, name, shape) of what is trained
        self._trained = [(group, name, p.shape) for group, members in model.trainable().items() for name, p in members]

    def base_values(self) -> dict[str, Tensor]:
        """``group/name`` -> float32 on the CPU; zeros for an adapter, whose base value is no change at all. Raises ``UserError``."""
        values = {name: torch.zeros(shape) for _, name, shape in self._trained}
        for key, stored in stored_tensors(self._base, lambda key: is_trained(key, self._names)):
            for name, rows, part in spread(key, stored):
                if name in values:  # the layer under an adapter is not
                    (values[name][rows] if values[name].ndim else values[name]).copy_(part)
        return {f"{group}/{name}": values[name] for group, name, _ in self._trained}


@torch.no_grad()
def _fill(model: Sa2va, stored: Stored) -> None:
    file = stored.file
    targets, group_of = native_tensors(model.network), model.network.group_of
    trained = {name: parameter for members in model.trainable().values() for name, parameter in members}
    foreign: list[str] = []
    other_base: list[str] = []
    given: set[str] = set()

    def put(name: str, target: Tensor, value: Tensor, key: str) -> None:
        if target.shape != value.shape:
            foreign.append(f"{key} {tuple(value.shape)} where {tuple(target.shape)} is expected")
        elif name in trained:
            target.copy_(value)
            given.add(name)
        elif group_of(name) != "embeddings" and not _equal(target, value):
            other_base.append(key)

    for name, value in zip(stored.adapters, stored.tensors(stored.adapters.values()), strict=True):
        if name in trained:
            put(name, trained[name], value, name)
        else:
            foreign.append(name)
    for key, tensor in zip(stored.plain, stored.tensors(stored.plain.values()), strict=True):
        where = place(key)
        if where is None or any(name not in targets for name in where.natives):
            if not is_memory(key):
                foreign.append(key)
            continue
        for name, rows, part in spread(key, tensor):
            put(name, targets[name][rows] if targets[name].ndim else targets[name], part, key)
    started = {group_of(name) for name in given}
    left = [name for name in trained if name not in given and group_of(name) in started]
    missing = [key for name in left for key in published_names(name, len(trained[name])) or [name]]  # adapters have no published key
    problems = {
        "keys that do not belong to this model": foreign,
        "missing although others of their group are there": missing,
        "frozen tensors that differ from the base's (is it the one that was trained?)": other_base,
    }
    if not given:
        keys = list(stored.plain)
        raise UserError(f"{file}: none of its {len(keys)} keys is a trained Sa2VA tensor; keys look like {', '.join(keys[:3])}")
    if found := [f"{len(keys)} {what}: {', '.join(keys[:6])}{' ...' if len(keys) > 6 else ''}" for what, keys in problems.items() if keys]:
        raise UserError(f"{file}: does not fit the base; " + "; ".join(found))


def _equal(base: Tensor, value: Tensor) -> bool:
    """Up to the rounding of the coarser of the two types."""
    coarse = base.dtype if base.element_size() <= value.element_size() else value.dtype
    return torch.equal(base.to(coarse), value.to(coarse))
