"""What an export changed, and whether it is, and computes, what the live model does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from plugins.models.sa2va.model import Sa2va
from plugins.models.sa2va.published.export import is_trained, trained_names
from plugins.models.sa2va.published.folder import shards, stored_tensors
from plugins.models.sa2va.published.weights import native_tensors, published_tensor, spread


def changes(model: Sa2va, base: Path, folder: Path) -> list[dict[str, Any]]:
    """One row for each group of published tensors: how ``folder`` differs from the model's ``base``.

    Tensors with adapters count as ``lora``. ``relative_norm`` is |new - base| / |base| over the group's tensors.
    """
    after = _Stored(folder)
    adapted = {name.split(".lora_")[0] for name, _ in model.trainable().get("lora", [])}
    empty = {"tensors": 0, "changed": 0, "bytes": 0, "moved": 0.0, "norm": 0.0}
    rows: dict[str, dict[str, Any]] = defaultdict(lambda: {**empty, "dtypes": set()})
    for key, before in stored_tensors(base):
        new, where = after.get(key), model.network.config.layout.place(key)
        group: str = "video_memory" if where is None else model.network.group_of(where.natives[0])
        if where is not None and where.natives[0].removesuffix(".weight") in adapted:
            group = "lora"
        row = rows[group]
        row["tensors"] += 1
        row["dtypes"].add(str(new.dtype).removeprefix("torch."))
        row["bytes"] += new.nbytes
        if changed := not torch.equal(before, new):
            row["moved"] += float((new.double() - before.double()).square().sum())
        row["changed"] += changed
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


@torch.no_grad()
def verify(model: Sa2va, base: Path, folder: Path, load: Callable[..., Sa2va]) -> dict[str, float]:
    """Reloads ``folder`` with ``load`` and compares it with the live ``model``.

    ``tensors``: how many are not the live ones, merged and rounded to the stored type (so that 16 bit hides nothing);
    ``logits``, ``mask_logits`` on a fixed picture and phrase: largest difference as a share of the largest value;
    ``mask_pixels``: pixels of its mask that differ.
    """
    wrong = _wrong_tensors(model, base, folder)
    again = load(checkpoint=folder, dtype=str(model.frozen_dtype).removeprefix("torch."))
    again.network.sam_constants, again.preparation = model.network.sam_constants, model.preparation
    again.to(model.device)
    (logits, masks, final), (logits2, masks2, final2) = _computed(model), _computed(again)
    return {
        "tensors": float(wrong),
        "logits": float((logits - logits2).abs().max() / logits.abs().max()),
        "mask_logits": float((masks - masks2).abs().max() / masks.abs().max()),
        "mask_pixels": float((final != final2).sum()),
    }


class _Stored:
    """Tensors of a folder by key."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Path] = {}
        for file in shards(folder):
            with safe_open(file, framework="pt") as handle:
                self._files |= dict.fromkeys(handle.keys(), file)

    def get(self, key: str) -> Tensor:
        with safe_open(self._files[key], framework="pt") as handle:
            return handle.get_tensor(key)


def _wrong_tensors(model: Sa2va, base: Path, folder: Path) -> int:
    """Merges by the formula, not by the export's own way: W + alpha / r * B A."""
    tensors, trained, after, layout = native_tensors(model.network), trained_names(model), _Stored(folder), model.network.config.layout
    scale = model.adapters.lora_alpha / model.adapters.r if model.adapters is not None else 0.0

    def live(key: str, before: Tensor) -> Tensor:
        parts = {name: tensors[name].detach() for name, _, _ in spread(layout, key, before)}
        for name, _, part in spread(layout, key, before):
            layer = model.network.get_submodule(name.rpartition(".")[0])
            if name.endswith(".weight") and hasattr(layer, "lora_A"):
                weight = parts[name] if tensors[name].requires_grad else part.to(parts[name].device)
                a, b = (layer.get_submodule(f"lora_{side}.default").get_parameter("weight").detach() for side in "AB")
                parts[name] = weight.float() + scale * (b @ a)
        return published_tensor(layout, key, parts.__getitem__)

    wrong = 0
    for key, before in stored_tensors(base):
        new, expected = after.get(key), before
        if is_trained(layout, key, trained):
            expected = live(key, before).to(before.dtype).cpu()
            step = torch.finfo(before.dtype).eps * expected.float().abs()  # sums in another order may round the other way
            wrong += new.dtype != before.dtype or bool(((new.float() - expected.float()).abs() > step + 1e-6).any())
        else:
            wrong += not torch.equal(new, expected)
    return wrong


def _computed(model: Sa2va) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the fixed answer [1, A, V], low-resolution mask logits [1, h, w] and the mask at the picture's size."""
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    with model.computing(training=False):
        vision, view = model.look(image), torch.zeros(1, dtype=torch.long, device=model.device)
        phrase = model.phrases(["the object"], 16)
        result = model.segment(vision, view, model.embed(phrase.ids), phrase.mask, model.wording(["verify"], None))
        weight, bias = model.head()
        logits = F.linear(result.answer_states.to(weight.dtype), weight, bias).float()
    return logits, result.mask_logits, model.network.final_mask(result.mask_logits, *image.shape[:2])
