"""A network's tensors and the published ones, each made of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from core.contracts import UserError
from plugins.models.sa2va.network import Network
from plugins.models.sa2va.published.folder import pieces
from plugins.models.sa2va.published.keys import Layout, Place, is_memory
from plugins.models.sa2va.published.memory import memory_shapes


@torch.no_grad()
def load_into(network: Network, folder: Path) -> None:
    """Fills ``network`` from a folder. Raises ``UserError`` listing keys that are missing, unexpected or of another shape."""
    config, targets = network.config, native_tensors(network)
    memory, layout = memory_shapes(config.published, config.sam21), config.layout
    filled: set[str] = set()
    seen: set[str] = set()
    unexpected, misshapen = [], []
    for key, shape, start, rows in pieces(folder):
        first, where = key not in seen, layout.place(key)
        seen.add(key)
        if rows.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            kind = str(rows.dtype).removeprefix("torch.")
            raise UserError(f"{folder}: {key} is stored as {kind}; only float32, bfloat16 and float16 weights can be loaded")
        if where is None or any(name not in targets for name in where.natives):
            if first and (not is_memory(key) or (memory and key not in memory)):
                unexpected.append(key)
            elif first and key in memory and shape != memory[key]:
                misshapen.append(f"{key} {shape} where {memory[key]} is expected")
            continue
        tensors = [targets[name][where.row : where.row + 1] if where.kind == "row" else targets[name] for name in where.natives]
        expected = tuple(tensors[0].shape)
        if where.kind == "split":
            expected = (sum(map(len, tensors)), *expected[1:])
        filled |= {f"{name}[{where.row}]" if where.kind == "row" else name for name in where.natives}
        if shape != expected:
            if first:
                misshapen.append(f"{key} {shape} where {expected} is expected")
            continue
        if where.kind == "split":
            _put_runs(where, tensors, shape[0], start, rows)
            continue
        for target in tensors:
            target[start : start + len(rows)].copy_(rows)
    missing = _missing(network, targets, filled) + sorted(memory.keys() - seen)
    problems = {"missing": missing, "unexpected": sorted(unexpected), "of another shape": misshapen}
    if found := [f"{len(keys)} {what}: {', '.join(keys[:8])}{' ...' if len(keys) > 8 else ''}" for what, keys in problems.items() if keys]:
        raise UserError(f"{folder}: weights do not fit config.json; " + "; ".join(found))


def _put_runs(where: Place, targets: list[Tensor], total: int, start: int, rows: Tensor) -> None:
    """Puts ``rows`` of a split tensor of ``total`` rows, from ``start`` on, where they belong."""
    for number, native, published, count in where.runs(total):
        first, end = max(start, published), min(start + len(rows), published + count)
        if first < end:
            targets[number][native + first - published : native + end - published].copy_(rows[first - start : end - start])


def _missing(network: Network, targets: dict[str, Tensor], filled: set[str]) -> list[str]:
    """The published keys of native tensors that were not ``filled``."""
    tied, layout = {"llm.lm_head.weight"} if network.config.backend.llm.tie_word_embeddings else set(), network.config.layout
    missing = []
    for name in sorted(set(targets) - tied):
        keys = layout.names(name, len(targets[name]) if targets[name].ndim else 0)
        rows = layout.place(keys[0]) if keys else None
        if rows is not None and rows.kind == "row":
            missing += [key for row, key in enumerate(keys) if f"{name}[{row}]" not in filled]
        elif name not in filled:
            missing += keys  # none for the second and third of a split, which its first names
    return missing


def native_tensors(network: Network) -> dict[str, Tensor]:
    """Every stored tensor of the network by name: parameters and persistent buffers, LoRA wrappers looked through."""
    return {name.replace(".base_layer", ""): tensor for name, tensor in network.state_dict(keep_vars=True).items() if ".lora_" not in name}


def published_tensor(layout: Layout, key: str, natives: Callable[[str], Tensor]) -> Tensor:
    """The published tensor ``key`` put together from native ones."""
    where = layout.place(key)
    if where is None:
        raise KeyError(key)
    parts = [natives(name) for name in where.natives]
    if where.kind == "split":
        runs = where.runs(sum(map(len, parts)))
        return torch.cat([parts[number][native : native + count] for number, native, _, count in runs])
    return parts[0][where.row : where.row + 1] if where.kind == "row" else parts[0]


def spread(layout: Layout, key: str, tensor: Tensor) -> Iterator[tuple[str, slice, Tensor]]:
    """(native name, its rows, their values) of a published ``tensor``; nothing for a key that has no place."""
    where = layout.place(key)
    if where is None:
        return
    rows = slice(where.row, where.row + 1) if where.kind == "row" else slice(None)
    runs = list(where.runs(len(tensor))) if where.kind == "split" else []
    for number, name in enumerate(where.natives):
        yield name, rows, torch.cat([tensor[at : at + count] for which, _, at, count in runs if which == number]) if runs else tensor
