"""Checkpoint folders in the published layout: tensors streamed one by one, in and out, through the key table.

Reading is safetensors only, no remote code, no unpickling. Writing goes beside the target and is renamed at the end.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.contracts import UserError
from plugins.models.sa2va.keys import is_memory, place, published_names
from plugins.models.sa2va.memory import memory_shapes
from plugins.models.sa2va.network import Network

FILE_BYTES = 4 * 2**30  # of one written safetensors file
_MAPPED = 2**24  # bytes of a file that are mapped at one time
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".pth", ".pt")


def shards(folder: Path) -> list[Path]:
    """The safetensors files of a folder, as its index lists them. Raises ``UserError`` where one is missing."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index}: not an index of safetensors files ({error}); copy it again") from None
        files = [folder / Path(name).name for name in names]
    else:
        files = sorted(folder.glob("*.safetensors"))
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise UserError(f"{folder}: {'missing ' + ', '.join(missing) if missing else 'no *.safetensors file'}; is the checkpoint complete?")
    return files


def stored_tensors(folder: Path, wanted: Callable[[str], bool] = lambda key: True) -> Iterator[tuple[str, Tensor]]:
    """(published key, tensor) of a folder, one at a time, of the ``wanted`` keys."""
    for file in shards(folder):
        for key, _, tensor in _read(file, lambda handle: [(name, slice(None)) for name in filter(wanted, handle.keys())]):
            yield key, tensor


def _pieces(folder: Path) -> Iterator[tuple[str, tuple[int, ...], int, Tensor]]:
    """(published key, shape of the tensor, first row, rows) of a folder: a large tensor comes in several pieces.

    Embeddings in float32 alone are a quarter of the size of a small model in 16 bit.
    """

    def rows(handle: Any) -> Iterator[tuple[str, slice]]:
        for key in handle.keys():  # noqa: SIM118  it is no dictionary
            [count, *row] = handle.get_slice(key).get_shape() or [1]
            step = max(1, _MAPPED // (4 * math.prod(row)))
            yield from ((key, slice(start, start + step)) for start in range(0, max(1, count), step))

    for file in shards(folder):
        for key, span, tensor in _read(file, rows):
            yield key, tuple(tensor.shape), span.start, tensor[span] if tensor.ndim else tensor


def _read(file: Path, choose: Callable[[Any], Iterable[tuple[str, slice]]]) -> Iterator[tuple[str, slice, Tensor]]:
    """The tensors that ``choose`` names of an open file, mapped into memory, and which rows of each are going to be read."""
    try:
        with safe_open(file, framework="pt") as handle:
            chosen = list(choose(handle))
        place = 0
        while place < len(chosen):
            # opened anew now and again: what has been read stays mapped, and so resident, until the file is closed
            with safe_open(file, framework="pt") as handle:
                mapped = 0
                while place < len(chosen) and mapped < _MAPPED:
                    key, span = chosen[place]
                    tensor = handle.get_tensor(key)
                    mapped += tensor[span].nbytes if tensor.ndim else tensor.nbytes
                    yield key, span, tensor
                    place += 1
                    del tensor
    except SafetensorError as error:
        raise UserError(f"{file}: damaged safetensors file ({error}); copy it again") from None


@torch.no_grad()
def load_into(network: Network, folder: Path) -> None:
    """Fills ``network`` from a folder. Raises ``UserError`` listing keys that are missing, unexpected or of another shape."""
    targets, memory = native_tensors(network), memory_shapes(network.config.published)
    filled: set[str] = set()
    seen: set[str] = set()
    unexpected, misshapen = [], []
    for key, shape, start, rows in _pieces(folder):
        first, where = key not in seen, place(key)
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
            expected = (len(tensors) * expected[0], *expected[1:])
        filled |= {f"{name}[{where.row}]" if where.kind == "row" else name for name in where.natives}
        if shape != expected:
            if first:
                misshapen.append(f"{key} {shape} where {expected} is expected")
            continue
        for number, target in enumerate(tensors):
            offset = start - (number * len(target) if where.kind == "split" else 0)  # of these rows in the target
            wanted = slice(max(0, -offset), max(0, min(len(rows), len(target) - offset)))
            part = rows[wanted]
            target[max(0, offset) : max(0, offset) + len(part)].copy_(part)
    missing = _missing(network, targets, filled) + sorted(memory.keys() - seen)
    problems = {"missing": missing, "unexpected": sorted(unexpected), "of another shape": misshapen}
    if found := [f"{len(keys)} {what}: {', '.join(keys[:8])}{' ...' if len(keys) > 8 else ''}" for what, keys in problems.items() if keys]:
        raise UserError(f"{folder}: weights do not fit config.json; " + "; ".join(found))


def _missing(network: Network, targets: dict[str, Tensor], filled: set[str]) -> list[str]:
    """The published keys of native tensors that were not ``filled``."""
    tied = {"llm.lm_head.weight"} if network.config.llm.tie_word_embeddings else set()
    missing = []
    for name in sorted(set(targets) - tied):
        keys = published_names(name, len(targets[name]) if targets[name].ndim else 0)
        rows = place(keys[0]) if keys else None
        if rows is not None and rows.kind == "row":
            missing += [key for row, key in enumerate(keys) if f"{name}[{row}]" not in filled]
        elif name not in filled:
            missing += keys  # none for the second and third of a split, which its first names
    return missing


def native_tensors(network: Network) -> dict[str, Tensor]:
    """Every stored tensor of the network by name: parameters and persistent buffers, LoRA wrappers looked through."""
    return {name.replace(".base_layer", ""): tensor for name, tensor in network.state_dict(keep_vars=True).items() if ".lora_" not in name}


def published_tensor(key: str, natives: Callable[[str], Tensor]) -> Tensor:
    """The published tensor ``key`` put together from native ones."""
    where = place(key)
    if where is None:
        raise KeyError(key)
    parts = [natives(name) for name in where.natives]
    if where.kind == "split":
        return torch.cat(parts)
    return parts[0][where.row : where.row + 1] if where.kind == "row" else parts[0]


@contextmanager
def complete(target: Path) -> Iterator[Path]:
    """A place beside ``target`` to write to, renamed at the end; nothing is left of a failed attempt. Raises ``UserError``."""
    if target.exists():
        raise UserError(f"{target}: already exists; remove it or choose another name")
    beside = target.with_name(target.name + ".part")
    try:
        _remove(beside)
        beside.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        beside.rename(target)
    except (OSError, SafetensorError) as error:
        _remove(beside)
        raise UserError(f"{target}: cannot be written ({error}); choose another place") from error
    except BaseException:
        _remove(beside)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()


def write_folder(target: Path, tensors: Iterable[tuple[str, Tensor]], config: dict[str, object], copy_from: Path | None) -> None:
    """Writes ``tensors`` as a published folder, with all of ``copy_from`` but its weights; ``config`` where it has no config.json."""
    with complete(target) as beside:
        beside.mkdir()
        for file in sorted(copy_from.iterdir()) if copy_from else []:
            if file.is_file() and not file.name.endswith(_WEIGHTS):
                shutil.copyfile(file, beside / file.name)
        if not (beside / "config.json").is_file():  # otherwise it was copied as it is
            (beside / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        _write_shards(beside, tensors)


def save_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """A safetensors file that may be read by whom the folder's other files may be; the library leaves it to its owner alone."""
    save_file(tensors, file, metadata={"format": "pt"})
    beside = file.with_name(file.name + ".mode")
    beside.touch()
    shutil.copymode(beside, file)
    beside.unlink()


def _write_shards(folder: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """``model.safetensors``, or several files and their index where it would be larger than a file may be."""
    files: list[list[str]] = []
    held: dict[str, Tensor] = {}
    total, size = 0, 0

    def flush() -> None:
        save_tensors(held, folder / f"{len(files)}.part")
        files.append(list(held))
        held.clear()

    for key, tensor in tensors:
        if held and size + tensor.nbytes > FILE_BYTES:
            flush()
            size = 0
        held[key] = tensor.detach().cpu().contiguous()
        size, total = size + tensor.nbytes, total + tensor.nbytes
    flush()
    count = len(files)
    names = ["model.safetensors"] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    for i, name in enumerate(names):
        (folder / f"{i}.part").rename(folder / name)
    if count > 1:
        index = {"metadata": {"total_size": total}, "weight_map": {key: names[i] for i, keys in enumerate(files) for key in keys}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
