"""The published reference checkpoint, and folders made from it with something changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

CHECKPOINT = Path(__file__).parents[1] / "fixtures" / "sa2va_reference" / "tiny_sa2va_hf"
FAMILIES = Path(__file__).parents[1] / "fixtures" / "families"


def published_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor that a checkpoint with this ``config.json`` holds."""
    from plugins.models.sa2va.network import Network
    from plugins.models.sa2va.published.config import parse_config
    from plugins.models.sa2va.published.memory import memory_shapes

    with torch.device("meta"):
        network = Network(parse_config(config))
    native, layout = network.state_dict(), network.config.layout
    shapes = dict(memory_shapes(config))
    for name, tensor in native.items():
        shape = tuple(tensor.shape)
        for key in layout.names(name, shape[0] if shape else 0):
            where = layout.place(key)
            assert where is not None
            shapes[key] = shape
            if where.kind == "split":
                shapes[key] = (sum(len(native[part]) for part in where.natives), *shape[1:])
            elif where.kind == "row":
                shapes[key] = (1, *shape[1:])
    return shapes


def write_shards(folder: Path, tensors: dict[str, torch.Tensor], count: int) -> None:
    """``tensors`` as ``count`` safetensors files and their index."""
    keys, index = sorted(tensors), {}
    for number in range(count):
        file = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        save_file({key: tensors[key] for key in keys[number::count]}, folder / file)
        index |= dict.fromkeys(keys[number::count], file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def states(model: Any, embeddings: torch.Tensor) -> torch.Tensor:
    """[B, L, D] -> [B, L, D] after the language model's final norm, positions from 0 on."""
    positions = torch.arange(embeddings.shape[1]).expand(1, len(embeddings), -1)  # [1, B, L]
    return model.network.backend.forward(embeddings, positions).last


def copy(target: Path, without: tuple[str, ...] = (), base: Path = CHECKPOINT) -> Path:
    """A copy of the reference checkpoint, or of another ``base``, without the files named in ``without``."""
    shutil.copytree(base, target)
    for file in without:
        (target / file).unlink()
    return target
