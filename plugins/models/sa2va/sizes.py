"""Sizes of ``sa2va.scratch``. Nothing heavy is imported: a recipe is checked with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from core.contracts import Count, Positive

#: The vision-language models that a new Sa2VA may be made on.
NewFamily = Literal["internvl", "qwen2_5_vl", "qwen3_vl"]


@dataclass(frozen=True)
class Sizes:
    """Sizes of a small model; the defaults have about 1.6 million parameters on InternVL, 1.7 on Qwen-VL."""

    tile: Count = 128  # side of a picture in pixels; Qwen-VL gives a picture of another shape about as many
    patch: Count = 8
    vision_width: Count = 64
    vision_layers: Count = 2
    llm_width: Count = 128
    llm_layers: Count = 3
    sam_size: Count = 128
    sam_width: Count = 64
    hiera_width: Count = 24
    hiera_stages: list[Count] = field(default_factory=lambda: [1, 1, 2, 1])
    # a global-attention block must not be the first of its stage
    hiera_global: list[int] = field(default_factory=lambda: [3])
    hiera_windows: list[int] = field(default_factory=lambda: [8, 4, 4, 4])
    init_range: Positive = 0.08
