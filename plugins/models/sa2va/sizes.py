"""Sizes of ``sa2va.scratch``. Standard library only: a recipe is checked with it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sizes:
    """Sizes of a small model; the defaults have about 1.6 million parameters."""

    tile: int = 128
    patch: int = 8
    vision_width: int = 64
    vision_layers: int = 2
    llm_width: int = 128
    llm_layers: int = 3
    sam_size: int = 128
    sam_width: int = 64
    hiera_width: int = 24
    hiera_stages: list[int] = field(default_factory=lambda: [1, 1, 2, 1])
    # a global-attention block must not be the first of its stage
    hiera_global: list[int] = field(default_factory=lambda: [3])
    hiera_windows: list[int] = field(default_factory=lambda: [8, 4, 4, 4])
    init_range: float = 0.08
