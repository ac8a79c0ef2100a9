"""Checkpoint folders in the published layout: tensors streamed one by one, in and out, through the key table.

Reading is safetensors only, no remote code, no unpickling. Writing goes beside the target and is renamed at the end.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.contracts import UserError
from plugins.models.sa2va.keys import is_memory, place
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
        try:
            yield from _tensors(file, wanted)
        except SafetensorError as error:
            raise UserError(f"{file}: damaged safetensors file ({error}); copy it again") from None


def _tensors(file: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
    with safe_open(file, framework="pt") as handle:
        keys = list(filter(wanted, handle.keys()))
    place = 0
    while place < len(keys):
        # opened anew now and again: what has been read stays mapped, and so resident, until the file is closed
        with safe_open(file, framework="pt") as handle:
            mapped = 0
            while place < len(keys) and mapped < _MAPPED:
                tensor = handle.get_tensor(keys[place])
                mapped += tensor.nbytes
                yield keys[place], tensor
                place += 1
                del tensor


@torch.no_grad()
def load_into(network: Network, folder: Path) -> None:
    """Fills ``network`` from a folder. Raises ``UserError`` listing keys that are missing, unexpected or of another shape."""
    targets, memory = native_tensors(network), memory_shapes(network.config.published)
    filled: set[str] = set()
    seen: set[str] = set()
    unexpected, misshapen = [], []
    for key, tensor in stored_tensors(folder):
        seen.add(key)
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{folder}: {key} is stored as {kind}; only float32, bfloat16 and float16 weights can be loaded")
        if key in memory and tuple(tensor.shape) != memory[key]:
            misshapen.append(f"{key} {tuple(tensor.shape)} where {memory[key]} is expected")
        where = place(key)
        natives = [] if where is None else [name for name in where.natives if name in targets]
        if where is None or len(natives) != len(where.natives):
            if not is_memory(key) or (memory and key not in memory):
                unexpected.append(key)
            continue
        parts = tensor.chunk(len(natives)) if where.kind == "split" else [tensor] * len(natives)
        for name, part in zip(natives, parts, strict=True):
            target = targets[name][where.row : where.row + 1] if where.kind == "row" else targets[name]
            if target.shape != part.shape:
                misshapen.append(f"{key} {tuple(tensor.shape)} where {tuple(target.shape)} is expected")
                continue
            target.copy_(part)
            filled.add(f"{name}[{where.row}]" if where.kind == "row" else name)
    rows = {f"sam2.prompt_encoder.point_embed.weight[{row}]" for row in range(4)}
    tied = {"llm.lm_head.weight"} if network.config.llm.tie_word_embeddings else set()
    missing = sorted((set(targets) - {"sam2.prompt_encoder.point_embed.weight"} | rows) - filled - tied) + sorted(memory.keys() - seen)
    problems = {"missing": missing, "unexpected": sorted(unexpected), "of another shape": misshapen}
    if found := [f"{len(keys)} {what}: {', '.join(keys[:8])}{' ...' if len(keys) > 8 else ''}" for what, keys in problems.items() if keys]:
        raise UserError(f"{folder}: weights do not fit config.json; " + "; ".join(found))


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


def write_folder(target: Path, tensors: Iterable[tuple[str, Tensor]], config: dict[str, object], copy_from: Path | None) -> None:
    """Writes a published folder: all of ``copy_from`` but its weights (tokenizer, remote code, ...), config, safetensors files."""
    if target.exists():
        raise UserError(f"{target}: already exists; remove it or choose another folder")
    beside = target.with_name(target.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        for file in sorted(copy_from.iterdir()) if copy_from else []:
            if file.is_file() and not file.name.endswith(_WEIGHTS):
                shutil.copyfile(file, beside / file.name)
        (beside / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        _write_shards(beside, tensors)
        beside.rename(target)
    except BaseException:  # nothing is left of a failed attempt
        shutil.rmtree(beside)
        raise


def _write_shards(folder: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """``model.safetensors``, or several files and their index where it would be larger than a file may be."""
    files: list[list[str]] = []
    held: dict[str, Tensor] = {}
    total, size = 0, 0

    def flush() -> None:
        save_file(held, folder / f"{len(files)}.part", metadata={"format": "pt"})
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
