"""The names of what may be trained, and the settings of adapters. Nothing heavy is imported: a recipe is checked with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from core.contracts import Count, ShareBelow1

Group = Literal["projector", "text_hidden_fcs", "lora", "sam2_decoder", "vision_model", "language_model", "embeddings", "sam2_encoder"]
PUBLISHED_GROUPS: tuple[Group, ...] = ("projector", "text_hidden_fcs", "lora", "sam2_decoder")
#: Which group the parameters of a prefix belong to; the first that fits a parameter's name counts.
Prefixes = Sequence[tuple[str, Group]]


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on all linear layers of the language model but its head (Hu et al. 2021)."""

    r: Count = 128
    alpha: Count = 256
    dropout: ShareBelow1 = 0.05


def trained_groups(train: Sequence[Group] | None, lora: Lora | None) -> list[Group]:
    """The groups that are trained: those named, or else the method's four (without ``lora`` where there are no adapters)."""
    return list(train) if train is not None else [group for group in PUBLISHED_GROUPS if group != "lora" or lora is not None]
