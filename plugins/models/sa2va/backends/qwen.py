"""Qwen2.5-VL and Qwen3-VL as the backend of Sa2VA, of transformers' own modules: picture encoder, its merger, and the language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask

from plugins.models.sa2va import prompts
from plugins.models.sa2va.backend import Grid, Largest, Piece, Prompt, Shown, States, put
from plugins.models.sa2va.backends.parts import Parts
from plugins.models.sa2va.backends.qwen_attention import group_windows
from plugins.models.sa2va.backends.qwen_pictures import TILE, NativePictures
from plugins.models.sa2va.groups import Prefixes


@dataclass(frozen=True)
class QwenSizes:
    """Obeys ``backend.BackendConfig``."""

    vision: PretrainedConfig
    llm: PretrainedConfig
    constants: tuple[Sequence[float], Sequence[float]]  # mean and std of a picture's red, green and blue, of 1
    pixels: tuple[int, int]  # least and most of a picture
    deep: int  # k: layers of the picture encoder whose features DeepStack adds in the language model
    normed: bool  # whether text_hidden_fcs reads the state after the final norm; of Qwen3-VL upstream reads the one before it
    marks: prompts.Marks = prompts.QWEN_VL

    def build(self) -> QwenVL:
        return QwenVL(self)

    def pictures(self, most: int) -> NativePictures:
        """``most`` tiles have the pixels of as many of InternVL's; more than upstream's bound are none."""
        largest = min(self.pixels[1], most * TILE)
        return NativePictures(self.vision.patch_size, self.vision.spatial_merge_size, min(self.pixels[0], largest), largest)

    def largest(self, most: int) -> Largest:
        pictures = self.pictures(most)
        tokens = pictures.most // (pictures.patch * pictures.merge) ** 2
        return Largest(tokens, tokens, 3 * pictures.most)


class LanguageModel(nn.Module):
    """The text part with its output layer, named as transformers' causal language models are."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.config = config
        self.model: Any = AutoModel.from_config(config, attn_implementation="sdpa")
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def tie_weights(self) -> None:
        self.lm_head.weight = self.model.embed_tokens.weight


class _Joined(nn.Module):
    """In the merger's place inside the encoder: joins the patches of a token, so that the merger can be applied, and trained, later."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, patches: Tensor) -> Tensor:
        """[n * m * m, C] -> [n, m * m * C]."""
        return patches.view(-1, self.width)


@dataclass(frozen=True)
class _Features:
    """One picture before the merger."""

    joined: Tensor  # [n, m * m * C]
    deep: Tensor | None  # [n, k, D]


class QwenVL(Parts):
    """Obeys ``backend.Backend``. A picture has a token for each cell of its region grid; positions have three numbers (M-RoPE).

    Upstream has no regions: here a region's tokens are the picture's own of its cells, DeepStack's features with them, and they are
    numbered as text.
    """

    marks = prompts.QWEN_VL
    longest: int | None = None
    groups: Prefixes = (
        ("projector.", "projector"),
        ("vision.", "vision_model"),  # with DeepStack's own mergers
        ("llm.model.embed_tokens.", "embeddings"),
        ("llm.lm_head.", "embeddings"),
        ("llm.", "language_model"),
    )

    def __init__(self, config: QwenSizes) -> None:
        self.config = config
        self.vision: Any = AutoModel.from_config(config.vision, attn_implementation="sdpa")
        group_windows(self.vision)
        self.projector: nn.Module = self.vision.merger
        self.vision.merger = _Joined(config.vision.hidden_size * config.vision.spatial_merge_size**2)
        self.llm = LanguageModel(config.llm)
        self.layers: int = config.llm.num_hidden_layers

    def encode(self, tiles: Tensor, counts: Sequence[int], grids: Sequence[Grid]) -> list[_Features]:
        """N pictures; each patch counts twice, as the two moments that the encoder takes together of a video."""
        sizes = self.config.vision
        mean, std = (torch.tensor(values, device=tiles.device)[:, None, None] * 255 for values in self.config.constants)
        pixels = (tiles.float() - mean) / std  # [n, 3, P, P], in the order in which upstream's processor computes it
        doubled = pixels[:, :, None].expand(-1, -1, sizes.temporal_patch_size, -1, -1)  # [n, 3, T, P, P]
        merge = sizes.spatial_merge_size
        patches = torch.tensor([(1, height * merge, width * merge) for height, width in grids], device=tiles.device)  # [N, 3]
        seen = self.vision(doubled.flatten(1).to(self.vision.patch_embed.proj.weight.dtype), grid_thw=patches)
        joined = seen.pooler_output.split([height * width for height, width in grids])
        if not self.config.deep:
            return [_Features(each, None) for each in joined]
        deep = torch.stack(seen.deepstack_features, 1).split([height * width for height, width in grids])  # N of [n, k, D]
        return [_Features(*each) for each in zip(joined, deep, strict=True)]

    def project(self, features: Sequence[_Features], grids: Sequence[Grid], rows: Sequence[int]) -> list[Shown]:
        joined = torch.cat([each.joined for each in features])  # [n, m * m * C]
        projected = self.projector(joined.view(-1, self.config.vision.hidden_size)).split([len(each.joined) for each in features])
        shown = []
        for row in rows:
            tokens, deep = projected[row], features[row].deep
            shown.append(Shown(tokens, deep, cells=tokens, grid=grids[row], deep_cells=deep))
        return shown

    def place(self, text: Tensor, at: Tensor, pictures: Sequence[Shown], regions: Sequence[Piece]) -> Prompt:
        pieces, deep = [*pictures, *regions], None
        embeddings = put(text, at, pieces)
        if self.config.deep:
            every = torch.cat([piece.deep for piece in pieces if piece.deep is not None]).flatten(1)  # [n, k * D]
            deep = every.new_zeros(len(text), every.shape[1]).masked_scatter(at[:, None], every)  # [L, k * D]
            deep = deep.unflatten(1, (self.config.deep, -1))
        return Prompt(embeddings, positions(at, pictures), deep)

    def forward(
        self, embeddings: Tensor, positions: Tensor, deep: Tensor | None = None, real: Tensor | None = None, cache: Cache | None = None
    ) -> States:
        """The layers one by one: transformers' own forward hides the state before the final norm."""
        model = self.llm.model
        mask = create_causal_mask(config=model.config, inputs_embeds=embeddings, attention_mask=real, past_key_values=cache)
        turns, hidden = model.rotary_emb(embeddings, positions), embeddings
        for number, layer in enumerate(model.layers):
            hidden = layer(hidden, attention_mask=mask, position_embeddings=turns, past_key_values=cache, use_cache=cache is not None)
            if deep is not None and number < deep.shape[2]:
                hidden = hidden + deep[:, :, number].to(hidden.dtype)
        last = model.norm(hidden)
        return States(last, last if self.config.normed else hidden)


def positions(at: Tensor, pictures: Sequence[Shown]) -> Tensor:
    """[3, L] int64: time, row and column of each token, M-RoPE's three numbers.

    All three go on by one from a token of text, or of a region, to the next. Those of a picture, at the first true places of ``at`` [L],
    have the picture's time, and their row and column in it; the text behind it goes on after the longer side.
    """
    places, columns = at.nonzero()[:, 0].tolist(), []
    read = used = number = 0  # tokens, those of pictures, and the next position
    for picture in pictures:
        start, (height, width) = places[used], picture.grid
        columns.append(torch.arange(number, number + start - read).expand(3, -1))
        number += start - read
        inside = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")).flatten(1)  # [2, n]
        columns.append(number + torch.cat([torch.zeros_like(inside[:1]), inside]))
        number += max(height, width)
        read, used = start + height * width, used + height * width
    columns.append(torch.arange(number, number + len(at) - read).expand(3, -1))
    return torch.cat(columns, 1).to(at.device)
