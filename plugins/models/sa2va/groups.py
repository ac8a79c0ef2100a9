"""Parameter groups by name, which of them are trained, and the adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import nn

from core.contracts import UserError
from plugins.models.sa2va.network import Network

if TYPE_CHECKING:
    from peft import LoraConfig

Group = Literal["projector", "text_hidden_fcs", "lora", "sam2_decoder", "vision_model", "language_model", "embeddings", "sam2_encoder"]
PUBLISHED_GROUPS: tuple[Group, ...] = ("projector", "text_hidden_fcs", "lora", "sam2_decoder")
_PREFIXES: list[tuple[str, Group]] = [  # the first that fits a parameter's name
    ("projector.", "projector"),
    ("text_hidden_fcs.", "text_hidden_fcs"),
    ("sam2.mask_decoder.", "sam2_decoder"),
    ("sam2.", "sam2_encoder"),
    ("vision.", "vision_model"),
    ("llm.model.embed_tokens.", "embeddings"),
    ("llm.lm_head.", "embeddings"),
    ("llm.", "language_model"),
]


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on all linear layers of the language model but its head (Hu et al. 2021)."""

    r: int = 128
    alpha: int = 256
    dropout: float = 0.05


def group_of(name: str) -> Group:
    """The parameter group of a name in ``Network``."""
    if ".lora_" in name:
        return "lora"
    return next(group for prefix, group in _PREFIXES if name.startswith(prefix))


def trained_groups(train: Sequence[Group] | None, lora: Lora | None) -> list[Group]:
    """The groups that are trained: those named, or else the method's four (without ``lora`` where there are no adapters)."""
    return list(train) if train is not None else [group for group in PUBLISHED_GROUPS if group != "lora" or lora is not None]


def choose_trained(network: Network, groups: Sequence[Group]) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Freezes everything but ``groups``, whose parameters become float32; returns them by group. Raises ``UserError``."""
    chosen: dict[str, list[tuple[str, nn.Parameter]]] = {group: [] for group in groups}
    for name, parameter in network.named_parameters():
        group = group_of(name)
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

    linear = {name.rsplit(".", 1)[-1] for name, module in network.llm.named_modules() if isinstance(module, nn.Linear)} - {"lm_head"}
    config = LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=sorted(linear), bias="none")
    inject_adapter_in_model(config, network.llm)
    return config
