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


def stored_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """(published key, tensor) of a folder, one at a time."""
    for file in shards(folder):
        try:
            with safe_open(file, framework="pt") as handle:
                for key in handle.keys():  # noqa: SIM118 - not a dict
                    yield key, handle.get_tensor(key)
        except SafetensorError as error:
            raise UserError(f"{file}: damaged safetensors file ({error}); copy it again") from None


@torch.no_grad()
def load_into(network: Network, folder: Path) -> None:
    """Fills ``network`` from a folder. Raises ``UserError`` listing keys that are missing, unexpected or of another shape."""
    targets, memory = native_tensors(network), memory_shapes(network.config.published)
    filled: set[str] = set()
    seen: set[str] = set()
    unexpected, misshapen = [], []
    for key, tensor in stored_tensors(folder):
        seen.add(key)
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
    """Writes a published folder: all of ``copy_from`` but its weights (tokenizer, remote code, ...), config, one safetensors file."""
    if target.exists():
        raise UserError(f"{target}: already exists; remove it or choose another folder")
    beside = target.with_name(target.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for file in sorted(copy_from.iterdir()) if copy_from else []:
        if file.is_file() and not file.name.endswith(_WEIGHTS):
            shutil.copyfile(file, beside / file.name)
    (beside / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors}, beside / "model.safetensors", metadata={"format": "pt"})
    beside.rename(target)
