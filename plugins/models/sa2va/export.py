"""What an export changed, whether it computes the same after reloading, and adapters in PEFT's own layout."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

from core.contracts import UserError
from plugins.models.sa2va.folder import shards, stored_tensors
from plugins.models.sa2va.keys import place
from plugins.models.sa2va.model import Sa2va, group_of, load


def changes(base: Path, folder: Path, adapted: set[str]) -> list[dict[str, Any]]:
    """One row for each group of published tensors: how ``folder`` differs from ``base``.

    ``adapted`` names the native modules with adapters. ``relative_norm`` is |new - base| / |base| over the group's tensors.
    """
    files = {key: file for file in shards(folder) for key in _keys(file)}
    empty = {"tensors": 0, "changed": 0, "bytes": 0, "moved": 0.0, "norm": 0.0}
    rows: dict[str, dict[str, Any]] = defaultdict(lambda: {**empty, "dtypes": set()})
    for key, before in stored_tensors(base):
        with safe_open(files[key], framework="pt") as handle:
            after = handle.get_tensor(key)
        where = place(key)
        group: str = "video_memory" if where is None else group_of(where.natives[0])
        if where is not None and where.natives[0].removesuffix(".weight") in adapted:
            group = "lora"
        row = rows[group]
        row["tensors"] += 1
        row["changed"] += not torch.equal(before, after)
        row["dtypes"].add(str(after.dtype).removeprefix("torch."))
        row["bytes"] += after.numel() * after.element_size()
        row["moved"] += float((after.double() - before.double()).square().sum())
        row["norm"] += float(before.double().square().sum())
    return [
        {
            "group": group,
            **{name: row[name] for name in ("tensors", "changed", "bytes")},
            "dtype": "/".join(sorted(row["dtypes"])),
            "relative_norm": (row["moved"] / row["norm"]) ** 0.5 if row["norm"] else 0.0,
        }
        for group, row in sorted(rows.items())
    ]


def _keys(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as handle:
        return list(handle.keys())


@torch.no_grad()
def verify(model: Sa2va, folder: Path) -> dict[str, float]:
    """Reloads ``folder`` and compares it with the live ``model`` on a fixed picture and phrase.

    ``logits``, ``mask_logits``: largest difference as a share of the largest value; ``mask_pixels``: pixels that differ.
    """
    again = load(checkpoint=folder, dtype=_frozen(model), max_tiles=model.preparation.max_tiles)
    again.network.sam_constants = model.network.sam_constants
    again.to(model.device)
    (logits, masks, final), (logits2, masks2, final2) = _computed(model), _computed(again)
    return {
        "logits": float((logits - logits2).abs().max() / logits.abs().max()),
        "mask_logits": float((masks - masks2).abs().max() / masks.abs().max()),
        "mask_pixels": float((final != final2).sum()),
    }


def _frozen(model: Sa2va) -> Any:
    return str(model.network.llm.model.embed_tokens.weight.dtype).removeprefix("torch.")


def _computed(model: Sa2va) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of the fixed answer [1, A, V], low-resolution mask logits [1, h, w] and the mask at the picture's size."""
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    model.eval()
    vision, view = model.look(image), torch.zeros(1, dtype=torch.long, device=model.device)
    phrase = model.phrases(["the object"], 16)
    result = model.segment(vision, view, model.embed(phrase.ids), phrase.mask, model.wording(["verify"], None))
    weight, bias = model.head()
    logits = F.linear(result.answer_states.to(weight.dtype), weight, bias).float()
    return logits, result.mask_logits, model.network.final_mask(result.mask_logits, *image.shape[:2])


def save_adapter(model: Sa2va, folder: Path) -> None:
    """The adapters alone, as PEFT writes them for the language model (``adapter_model.safetensors``, ``adapter_config.json``)."""
    members = model.trainable().get("lora")
    if not members or model.adapters is None:
        raise UserError("this model has no adapters: its recipe has no 'model.lora'")
    if folder.exists():
        raise UserError(f"{folder}: already exists; remove it or choose another folder")
    beside = folder.with_name(folder.name + ".part")
    beside.mkdir(parents=True, exist_ok=True)
    names = {f"base_model.model.{name.removeprefix('llm.').replace('.default', '')}": p.detach().cpu().contiguous() for name, p in members}
    save_file(names, beside / "adapter_model.safetensors", metadata={"format": "pt"})
    values = {key: sorted(value) if isinstance(value, set) else value for key, value in model.adapters.to_dict().items()}
    values |= {"task_type": "CAUSAL_LM", "peft_type": "LORA", "inference_mode": True}
    (beside / "adapter_config.json").write_text(json.dumps(values, indent=2, default=str) + "\n", encoding="utf-8")
    beside.rename(folder)
