"""Trained tensors of another training, put into the published checkpoint that it started from.

Token embeddings and output layer are taken where they are asked for only: training overwrites their special rows, and [SEG] is then
no longer generated. What is left out is told.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from core.contracts import UserError
from plugins.models.sa2va.groups import PUBLISHED_GROUPS, Group, trained_groups
from plugins.models.sa2va.mask_rule import MaskRule
from plugins.models.sa2va.model import Sa2va
from plugins.models.sa2va.published.config import read_config
from plugins.models.sa2va.published.export import is_trained, trained_names
from plugins.models.sa2va.published.folder import alike, stored_tensors, weights_hash
from plugins.models.sa2va.published.keys import Layout, is_memory
from plugins.models.sa2va.published.load import load_folder
from plugins.models.sa2va.published.training_file import Stored, read_trained
from plugins.models.sa2va.published.weights import native_tensors, spread
from plugins.models.sa2va.video import UPSTREAM, DecoderVersion, Video


def load_over(
    file: Path,
    checkpoint: Path,
    lora_alpha: int | None,
    lora_dropout: float,
    dtype: str,
    max_tiles: int,
    take: Sequence[Group] = (),
    mask_rule: MaskRule = "first",
    video: Video = UPSTREAM,
    decoder: DecoderVersion = "auto",
) -> Sa2va:
    """See ``components.load_legacy``."""
    if unknown := sorted(set(take) - set(get_args(Group))):
        raise UserError(f"{', '.join(unknown)}: no such group; there are {', '.join(get_args(Group))}")
    config = read_config(checkpoint, decoder)  # before a large file is read
    stored = read_trained(file, config.layout.adapted, lora_alpha, lora_dropout)
    if stored.base is not None and stored.base != weights_hash(checkpoint):
        raise UserError(f"{file}: was not trained over {checkpoint}, whose weights are others; name the folder that training started from")
    train = [*trained_groups(None, stored.lora), *(group for group in take if group not in PUBLISHED_GROUPS)]
    model = load_folder(checkpoint, stored.lora, train, dtype=dtype, max_tiles=max_tiles, mask_rule=mask_rule, video=video)
    left_out = _fill(model, stored)
    for group, keys in left_out.items():
        warnings.warn(
            f"{file}: left out: {some(keys)}, trained tensors of the group {group} that differ from the base's (to take them: "
            f"--groups full+{group}, or in a recipe take: [{group}])",
            stacklevel=3,
        )
    model.origin = Overlaid(model, checkpoint, left_out)
    return model


def some(keys: Sequence[str]) -> str:
    """The first of them, and how many there are."""
    return f"{len(keys)} tensor{'s' if len(keys) > 1 else ''}, " + ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


class Overlaid:
    """Obeys ``model.Origin``. Values are read from the base when they are asked for: nothing is held of them until then."""

    def __init__(self, model: Sa2va, base: Path, left_out: Mapping[str, Sequence[str]]) -> None:
        """``left_out``: group -> keys of the file that were not taken, though their values are not the base's."""
        self._base, self._names, self.left_out, self._layout = base, trained_names(model), left_out, model.network.config.layout
        # (group, name, shape) of what is trained
        self._trained = [(group, name, p.shape) for group, members in model.trainable().items() for name, p in members]

    def base_values(self) -> dict[str, Tensor]:
        """``group/name`` -> float32 on the CPU; zeros for an adapter, whose base value is no change at all. Raises ``UserError``."""
        values = {name: torch.zeros(shape) for _, name, shape in self._trained}
        for key, stored in stored_tensors(self._base, lambda key: is_trained(self._layout, key, self._names)):
            for name, rows, part in spread(self._layout, key, stored):
                if name in values:  # the layer under an adapter is not
                    (values[name][rows] if values[name].ndim else values[name]).copy_(part)
        return {f"{group}/{name}": values[name] for group, name, _ in self._trained}


@torch.no_grad()
def _fill(model: Sa2va, stored: Stored) -> dict[str, list[str]]:
    """Puts what is ``stored`` into the trained parameters; returns the keys of frozen embeddings that are not the base's, by group."""
    file = stored.file
    targets, group_of, layout = native_tensors(model.network), model.network.group_of, model.network.config.layout
    trained = {name: parameter for members in model.trainable().values() for name, parameter in members}
    foreign: list[str] = []
    other_base: dict[str, list[str]] = {}  # group -> keys
    given: set[str] = set()

    def put(name: str, target: Tensor, value: Tensor, key: str) -> None:
        if target.shape != value.shape:
            foreign.append(f"{key} {tuple(value.shape)} where {tuple(target.shape)} is expected")
        elif name in trained:
            target.copy_(value)
            given.add(name)
        elif not alike(target, value):
            other_base.setdefault(group_of(name), []).append(key)

    for (layer, side), value in zip(stored.adapters, stored.tensors(stored.adapters.values()), strict=True):
        for name, part in _adapter(layout, layer, side, value):
            if name in trained:
                put(name, trained[name], part, stored.adapters[layer, side])
            else:
                foreign.append(stored.adapters[layer, side])
    order = sorted(stored.plain, key=layout.head.__eq__)  # last: where the base ties it, it is compared with new embeddings
    for key, tensor in zip(order, stored.tensors([stored.plain[key] for key in order]), strict=True):
        where = layout.place(key)
        if where is None or any(name not in targets for name in where.natives):
            if not is_memory(key):
                foreign.append(key)
            continue
        for name, rows, part in spread(layout, key, tensor):
            put(name, targets[name][rows] if targets[name].ndim else targets[name], part, key)
    if lost := [group for group in model.trainable() if group in other_base]:
        raise UserError(f"{file}: {some(other_base[lost[0]])} cannot be taken beside its embeddings: config.json of the base ties the two")
    if absent := [group for group in model.trainable() if group not in PUBLISHED_GROUPS and not any(group_of(n) == group for n in given)]:
        raise UserError(f"{file}: it holds no tensors of the group {absent[0]}, which is to be taken")
    left_out = {group: keys for group, keys in other_base.items() if group == "embeddings"}
    frozen = list(dict.fromkeys(key for group, keys in other_base.items() if group not in left_out for key in keys))  # q, k, v of one key
    trained_too = " or, if they were trained, too, take their groups: --groups full+" + "+".join(g for g in other_base if g not in left_out)
    started = {group_of(name) for name in given} - {"embeddings"}  # the output layer may be trained without the embeddings
    left = [name for name in trained if name not in given and group_of(name) in started]
    missing = [key for name in left for key in layout.names(name, len(trained[name])) or [name]]  # adapters have no published key
    problems = {
        "keys that do not belong to this model": foreign,
        "missing although others of their group are there": missing,
        f"frozen tensors that differ from the base's (is it the one that was trained?{trained_too})": frozen,
    }
    if not given:
        keys = list(stored.plain)
        raise UserError(f"{file}: none of its {len(keys)} keys is a trained Sa2VA tensor; keys look like {', '.join(keys[:3])}")
    if found := [f"{len(keys)} {what}: {', '.join(keys[:6])}{' ...' if len(keys) > 6 else ''}" for what, keys in problems.items() if keys]:
        raise UserError(f"{file}: does not fit the base; " + "; ".join(found))
    return left_out


def _adapter(layout: Layout, layer: str, side: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(native name, its values) of one side of an adapter; layers that are one in the file have one A, under the first's name."""
    parts = list(spread(layout, layer, value)) or [(layer, slice(None), value)]
    for name, _, part in parts[:1] if side == "A" else parts:
        yield f"{name.removesuffix('.weight')}.lora_{side}.default.weight", value if side == "A" else part
