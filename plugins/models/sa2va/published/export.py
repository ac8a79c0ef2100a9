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
from plugins.models.sa2va.published.keys import place
from plugins.models.sa2va.published.weights import native_tensors, published_tensor
from plugins.models.sa2va.published.writing import complete, save_tensors, write_folder


@torch.no_grad()
def save(model: Sa2va, base: Path, folder: Path) -> None:
    """Writes a published folder: LoRA merged; what is not trained is copied from ``base`` byte for byte. Raises ``UserError``."""
    trained, read = trained_names(model), merged_reader(model.network)
    tensors = ((key, read(key, tensor) if is_trained(key, trained) else tensor) for key, tensor in stored_tensors(base))
    write_folder(folder, tensors, model.network.config.published, base)


def merged_reader(network: Network) -> Callable[[str, Tensor], Tensor]:
    """(published key, the base's tensor) -> the trained one in the base's type, adapters added in float32."""
    tensors = native_tensors(network)
    adapted = {f"{name}.weight": module for name, module in network.named_modules() if hasattr(module, "get_delta_weight")}

    def read(key: str, stored: Tensor) -> Tensor:
        where = place(key)
        name = where.natives[0] if where is not None else ""
        if name not in adapted:
            return published_tensor(key, tensors.__getitem__).detach().to(stored.dtype)
        # what the adapters are added to is as it was stored, not as it was rounded to the model's type, unless it is trained too
        weight = tensors[name].detach() if tensors[name].requires_grad else stored
        delta = adapted[name].get_delta_weight("default").float().to(weight.device)
        return (weight.float() + delta).to(stored.dtype) if delta.any() else weight.to(stored.dtype)  # -0.0 + 0.0 is 0.0

    return read


def trained_names(model: Sa2va) -> set[str]:
    """Native names of what is trained, without the adapters' suffixes; also the second name of a parameter that is tied to another."""
    trained = {id(parameter) for members in model.trainable().values() for _, parameter in members}
    tied = {name for name, tensor in native_tensors(model.network).items() if id(tensor) in trained}
    return tied | {name.split(".lora_")[0].replace(".base_layer", "") for members in model.trainable().values() for name, _ in members}


def is_trained(published: str, trained: set[str]) -> bool:
    """Whether a published tensor holds any of the ``trained`` parameters."""
    where = place(published)
    return where is not None and any(native in trained or native.removesuffix(".weight") in trained for native in where.natives)


def save_adapter(model: Sa2va, folder: Path) -> None:
    """The adapters alone, as PEFT writes them for the language model (``adapter_model.safetensors``, ``adapter_config.json``)."""
    members = model.trainable().get("lora")
    if not members or model.adapters is None:
        raise UserError("this model has no adapters: its recipe has no 'model.lora'")
    names = {f"base_model.model.{name.removeprefix('llm.').replace('.default', '')}": p.detach().cpu().contiguous() for name, p in members}
    values = {key: sorted(value) if isinstance(value, set) else value for key, value in model.adapters.to_dict().items()}
    values |= {"task_type": "CAUSAL_LM", "peft_type": "LORA", "inference_mode": True}
    with complete(folder) as beside:
        beside.mkdir()
        save_tensors(names, beside / "adapter_model.safetensors")
        (beside / "adapter_config.json").write_text(json.dumps(values, indent=2, default=str) + "\n", encoding="utf-8")


@torch.no_grad()
def save_legacy(model: Sa2va, base: Path, file: Path) -> None:
    """The trained tensors under the names of upstream's trainer, ``{meta, state_dict}``; ``legacy`` reads it back."""
    tensors, trained, state = native_tensors(model.network), trained_names(model), {}
    for name, parameter in model.trainable().get("lora", []):
        state[f"mllm.model.language_model.base_model.model.{name.removeprefix('llm.')}"] = parameter.detach().cpu()
    adapted = {name.split(".lora_")[0] for name, _ in model.trainable().get("lora", [])}
    for key, _ in stored_tensors(base, lambda key: is_trained(key, trained - adapted)):
        upstream = key if key.startswith(("text_hidden_fcs.", "grounding_encoder.")) else f"mllm.model.{key}"
        state[upstream] = published_tensor(key, tensors.__getitem__).detach().cpu().clone()
    meta: dict[str, str | int] = {"base_sha256": weights_hash(base)}
    meta |= {"lora_alpha": model.adapters.lora_alpha} if model.adapters is not None else {}
    with complete(file) as beside, open(beside, "wb") as stream:
        torch.save({"meta": meta, "state_dict": state}, stream)
