"""InternVL as the backend of Sa2VA: InternViT, its projector, and Qwen2 or (of InternLM2's weights) Llama, transformers' own modules."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    InternVLConfig,
    InternVLVisionConfig,
    InternVLVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.cache_utils import Cache
from transformers.models.internvl.modeling_internvl import InternVLMultiModalProjector

from core.contracts import UserError
from plugins.models.sa2va import prompts
from plugins.models.sa2va.backend import Grid, Largest, Piece, Prompt, Shown, States, put
from plugins.models.sa2va.backends.internvl_pictures import TiledPictures
from plugins.models.sa2va.backends.parts import Parts
from plugins.models.sa2va.groups import Prefixes
from plugins.models.sa2va.pixels import normalize


@dataclass(frozen=True)
class InternVLSizes:
    """Obeys ``backend.BackendConfig``."""

    vision: InternVLVisionConfig
    llm: Qwen2Config | LlamaConfig
    tile: int  # side of a tile in pixels
    grid: int  # G, side of the grid of image tokens of a tile
    pixel_shuffle: str  # "v1" or "v2"
    downsample: float
    longest: int | None = None  # tokens up to which dynamic RoPE scaling is the identity; None: there is no scaling
    marks: prompts.Marks = prompts.INTERNVL
    deep: int = 0

    def build(self) -> InternVL:
        return InternVL(self)

    def pictures(self, most: int) -> TiledPictures:
        return TiledPictures(self.tile, self.grid, most)

    def largest(self, most: int) -> Largest:
        """With a thumbnail where there are several tiles."""
        tiles, cells = most + (most > 1), self.grid**2
        return Largest(tiles * cells, cells, tiles * 3 * self.tile**2)

    def projector(self) -> InternVLConfig:
        """What ``InternVLMultiModalProjector`` wants to be built from."""
        vision, llm = copy.deepcopy(self.vision), copy.deepcopy(self.llm)  # InternVLConfig writes into its parts
        return InternVLConfig(vision_config=vision, text_config=llm, downsample_ratio=self.downsample, projector_hidden_act="gelu")


class InternVL(Parts):
    """Obeys ``backend.Backend``. A picture is n tiles of G x G tokens; regions are taken from the last one, which shows all of it."""

    marks = prompts.INTERNVL
    groups: Prefixes = (
        ("projector.", "projector"),
        ("vision.", "vision_model"),
        ("llm.model.embed_tokens.", "embeddings"),
        ("llm.lm_head.", "embeddings"),
        ("llm.", "language_model"),
    )

    def __init__(self, config: InternVLSizes) -> None:
        self.config = config
        self.vision: InternVLVisionModel = AutoModel.from_config(config.vision, attn_implementation="sdpa")
        self.projector = InternVLMultiModalProjector(config.projector())
        self.llm: Qwen2ForCausalLM | LlamaForCausalLM = AutoModelForCausalLM.from_config(config.llm, attn_implementation="sdpa")
        self.layers: int = config.llm.num_hidden_layers
        self.longest = config.longest

    def tile_features(self, tiles: Tensor) -> Tensor:
        """[n, 3, S, S] uint8 -> [n, G*G, C] before the projector."""
        pixels = normalize(tiles, self.vision.embeddings.cls_token.dtype)
        tokens = self.vision(pixels).last_hidden_state[:, 1:]  # [n, side*side, width], without CLS
        side = int(tokens.shape[1] ** 0.5)
        return pixel_shuffle(tokens.unflatten(1, (side, side)), self.config.downsample, self.config.pixel_shuffle)

    def encode(self, tiles: Tensor, counts: Sequence[int], grids: Sequence[Grid]) -> list[Tensor]:
        """N of [n_i, G*G, C]."""
        return list(self.tile_features(tiles).split(list(counts)))

    def project(self, features: Sequence[Tensor], grids: Sequence[Grid], rows: Sequence[int]) -> list[Shown]:
        projected = self.projector(torch.cat(list(features))).split([len(tiles) for tiles in features])  # N of [n_i, G*G, D]
        shown = []
        for row in rows:
            tokens, (height, width) = projected[row].flatten(0, 1), grids[row]  # [n_i * G*G, D]
            shown.append(Shown(tokens, cells=tokens[-(height * width) :], grid=grids[row]))
        return shown

    def place(self, text: Tensor, at: Tensor, pictures: Sequence[Shown], regions: Sequence[Piece]) -> Prompt:
        """Positions are 0 to L - 1."""
        return Prompt(put(text, at, [*pictures, *regions]), torch.arange(len(text), device=text.device)[None])

    def forward(
        self, embeddings: Tensor, positions: Tensor, deep: Tensor | None = None, real: Tensor | None = None, cache: Cache | None = None
    ) -> States:
        """Without ``real``, positions are those that Qwen2 takes by itself; given ones would cost it its quickest attention."""
        if self.longest is not None:
            refuse_longer(embeddings.shape[1] if real is None else real, self.longest)
        given: dict[str, Any] = {} if real is None else {"attention_mask": real, "position_ids": positions[0]}
        read = self.llm.model(inputs_embeds=embeddings, past_key_values=cache, use_cache=cache is not None, **given)
        return States(read.last_hidden_state, read.last_hidden_state)


def refuse_longer(read: int | Tensor, longest: int) -> None:
    """Raises ``UserError`` for a sequence of more than ``longest`` tokens; of a batch [B, L] those that are not zero count."""
    tokens = read if isinstance(read, int) else read.shape[1]
    if tokens > longest and not isinstance(read, int):  # padding, and drafts that were not taken, have places too
        tokens = int(read.sum(1).max())
    if tokens > longest:
        what = f"a sequence of {tokens} tokens is longer than the {longest} of this checkpoint (llm_config.max_position_embeddings)"
        raise UserError(f"{what}; its dynamic RoPE scaling beyond them is not supported: use fewer tiles (max_tiles) or shorter texts")


def pixel_shuffle(features: Tensor, factor: float, version: str) -> Tensor:
    """[n, side, side, C] -> [n, (side * factor)**2, C / factor**2]; version "v1" is the transpose of "v2" in space."""
    n, side, _, channels = features.shape
    step, small = int(1 / factor), int(side * factor)
    blocks = features.view(n, small, step, small, step, channels).permute(0, 1, 3, 2, 4, 5)  # [n, s, s, step, step, C]
    if version == "v1":
        blocks = blocks.transpose(1, 2)
    return blocks.reshape(n, small * small, step * step * channels)
