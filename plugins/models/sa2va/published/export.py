"""A model as a published folder, as PEFT's adapters, or as a training file of upstream's own trainer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from core.contracts import UserError
from plugins.models.sa2va.model import Sa2va
from plugins.models.sa2va.network import Network
from plugins.models.sa2va.published.folder import stored_tensors, weights_hash
from plugins.models.sa2va.published.keys import Layout
from plugins.models.sa2va.published.weights import native_tensors, published_tensor, spread
from plugins.models.sa2va.published.writing import complete, save_tensors, write_folder


@torch.no_grad()
def save(model: Sa2va, base: Path, folder: Path) -> None:
    """Writes a published folder: LoRA merged; what is not trained is copied from ``base`` byte for byte. Raises ``UserError``."""
    trained, read, layout = trained_names(model), merged_reader(model.network), model.network.config.layout
    tensors = ((key, read(key, tensor) if is_trained(layout, key, trained) else tensor) for key, tensor in stored_tensors(base))
    write_folder(folder, tensors, model.network.config.published, base)


def merged_reader(network: Network) -> Callable[[str, Tensor], Tensor]:
    """(published key, the base's tensor) -> the trained one in the base's type, adapters added in float32."""
    tensors, layout = native_tensors(network), network.config.layout
    adapted = {f"{name}.weight": module for name, module in network.named_modules() if hasattr(module, "get_delta_weight")}

    def merged(name: str, part: Tensor) -> Tensor:
        # what the adapters are added to is as it was stored, not as it was rounded to the model's type, unless it is trained too
        weight = tensors[name].detach() if tensors[name].requires_grad else part
        delta = adapted[name].get_delta_weight("default").float().to(weight.device)
        return (weight.float() + delta).to(part.dtype) if delta.any() else weight.to(part.dtype)  # -0.0 + 0.0 is 0.0

    def read(key: str, stored: Tensor) -> Tensor:
        where = layout.place(key)
        if where is None or where.natives[0] not in adapted:
            return published_tensor(layout, key, tensors.__getitem__).detach().to(stored.dtype)
        parts = {name: merged(name, part) for name, _, part in spread(layout, key, stored)}
        return published_tensor(layout, key, parts.__getitem__)

    return read


def trained_names(model: Sa2va) -> set[str]:
    """Native names of what is trained, without the adapters' suffixes; also the second name of a parameter that is tied to another."""
    trained = {id(parameter) for members in model.trainable().values() for _, parameter in members}
    tied = {name for name, tensor in native_tensors(model.network).items() if id(tensor) in trained}
    return tied | {name.split(".lora_")[0].replace(".base_layer", "") for members in model.trainable().values() for name, _ in members}


def is_trained(layout: Layout, published: str, trained: set[str]) -> bool:
    """Whether a published tensor holds any of the ``trained`` parameters."""
    where = layout.place(published)
    return where is not None and any(native in trained or native.removesuffix(".weight") in trained for native in where.natives)


def published_adapters(model: Sa2va) -> dict[str, tuple[Tensor, Tensor]]:
    """Published name of a linear layer of the language model -> A [r, n] and B [m, r] of its adapter; {} where there is none."""
    layout, adapters = model.network.config.layout, {}
    for name in dict(model.trainable().get("lora", [])):
        stem = name.split(".lora_")[0]
        for key in layout.names(f"{stem}.weight", 0):  # none for the second and third of what is one in the file

            def up(native: str) -> Tensor:
                return model.network.get_parameter(f"{native.removesuffix('.weight')}.lora_B.default.weight").detach()

            a = model.network.get_parameter(f"{stem}.lora_A.default.weight").detach()
            adapters[key.removesuffix(".weight")] = a, published_tensor(layout, key, up)
    return adapters


def save_adapter(model: Sa2va, folder: Path) -> None:
    """The adapters alone, as PEFT writes them for the language model (``adapter_model.safetensors``, ``adapter_config.json``)."""
    adapters = published_adapters(model)
    if not adapters or model.adapters is None:
        raise UserError("this model has no adapters: its recipe has no 'model.lora'")
    names, outer = {}, model.network.config.layout.adapted
    for stem, pair in adapters.items():
        for side, tensor in zip("AB", pair, strict=True):
            names[f"base_model.model.{stem.removeprefix(outer)}.lora_{side}.weight"] = tensor.cpu().contiguous()
    values = {key: sorted(value) if isinstance(value, set) else value for key, value in model.adapters.to_dict().items()}
    values |= {"task_type": "CAUSAL_LM", "peft_type": "LORA", "inference_mode": True}
    values["target_modules"] = sorted({stem.rsplit(".", 1)[-1] for stem in adapters})
    with complete(folder) as beside:
        beside.mkdir()
        save_tensors(names, beside / "adapter_model.safetensors")
        (beside / "adapter_config.json").write_text(json.dumps(values, indent=2, default=str) + "\n", encoding="utf-8")


@torch.no_grad()
def save_legacy(model: Sa2va, base: Path, file: Path) -> None:
    """The trained tensors under the names of upstream's trainer, ``{meta, state_dict}``; ``legacy`` reads it back."""
    tensors, trained, state, layout = native_tensors(model.network), trained_names(model), {}, model.network.config.layout
    whole = layout.adapted == "model."  # PEFT is around all of a Qwen-VL, which the trainer calls mllm.model
    around = "mllm.model." if whole else f"mllm.model.{layout.adapted}"
    for stem, pair in published_adapters(model).items():
        inner = stem.removeprefix(layout.adapted)
        for side, tensor in zip("AB", pair, strict=True):
            state[f"{around}base_model.model.{inner}.lora_{side}.default.weight"] = tensor.cpu()
    adapted = {name.split(".lora_")[0] for name, _ in model.trainable().get("lora", [])}
    for key, _ in stored_tensors(base, lambda key: is_trained(layout, key, trained - adapted)):
        inside = f"base_model.model.{key.removeprefix('model.')}" if whole else key
        upstream = key if key.startswith(("text_hidden_fcs.", "grounding_encoder.")) else f"mllm.model.{inside}"
        state[upstream] = published_tensor(layout, key, tensors.__getitem__).detach().cpu().clone()
    meta: dict[str, str | int] = {"base_sha256": weights_hash(base)}
    meta |= {"lora_alpha": model.adapters.lora_alpha} if model.adapters is not None else {}
    with complete(file) as beside, open(beside, "wb") as stream:
        torch.save({"meta": meta, "state_dict": state}, stream)
