"""Which parameters of a network are trained, and the adapters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from core.contracts import UserError
from plugins.models.sa2va.groups import Group, Lora
from plugins.models.sa2va.network import Network

if TYPE_CHECKING:
    from peft import LoraConfig


def choose_trained(network: Network, groups: Sequence[Group]) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Freezes everything but ``groups``, whose parameters become float32; returns them by group. Raises ``UserError``."""
    chosen: dict[str, list[tuple[str, nn.Parameter]]] = {group: [] for group in groups}
    for name, parameter in network.named_parameters():
        group = network.group_of(name)
        parameter.requires_grad_(group in chosen)
        if group in chosen:
            parameter.data = parameter.data.float()  # float32 masters
            chosen[group].append((name, parameter))
    if empty := [group for group, members in chosen.items() if not members]:
        raise UserError(f"model.train names {', '.join(empty)}, which has no parameters here; 'lora' needs the key 'model.lora'")
    return chosen


def add_lora(network: Network, lora: Lora) -> LoraConfig:
    """Puts fresh adapters on the language model."""
    from peft import LoraConfig, inject_adapter_in_model  # slow to import, so only where it is used

    from plugins.models.sa2va.adapted import AdaptedLinear, lean_feed_forward

    llm = network.backend.llm
    linear = {name.rsplit(".", 1)[-1] for name, module in llm.named_modules() if isinstance(module, nn.Linear)} - {"lm_head"}
    config = LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=sorted(linear), bias="none")
    config._register_custom_module({nn.Linear: AdaptedLinear})
    inject_adapter_in_model(config, llm)
    lean_feed_forward(llm)
    _share(network)
    return config


def _share(network: Network) -> None:
    """Layers that are one matrix in the file, such as InternLM2's wqkv, read one A, as that matrix's own adapter would."""
    layout, modules = network.config.layout, dict(network.named_modules())
    for name, module in modules.items():
        for key in layout.names(f"{name}.weight", 0) if hasattr(module, "lora_A") else []:
            where = layout.place(key)
            for other in where.natives[1:] if where is not None else ():
                modules[other.removesuffix(".weight")].lora_A = module.lora_A
