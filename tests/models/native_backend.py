"""A backend unlike InternVL: native resolution, positions with three numbers, and features that are added in the language model.

What Qwen2.5-VL and Qwen3-VL will ask of the seam, on a language model of a few thousand weights.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from plugins.models.sa2va.backend import Prompt, Shown, States, put
from plugins.models.sa2va.backends.internvl import InternVL, InternVLSizes
from plugins.models.sa2va.components import Sizes
from plugins.models.sa2va.model import Sa2va
from plugins.models.sa2va.network import Network
from plugins.models.sa2va.prompts import INTERNVL
from plugins.models.sa2va.published.config import parse_config
from plugins.models.sa2va.published.scratch_config import published_config
from plugins.models.sa2va.published.scratch_tokenizer import train_tokenizer
from plugins.models.sa2va.text import Text

PATCH = 8  # side in pixels of what is one token


@dataclass(frozen=True)
class Patches:
    """A token for each patch; rows and columns as the picture has them."""

    def picture(self, image: np.ndarray, fast: bool = False):
        height, width = image.shape[0] // PATCH, image.shape[1] // PATCH
        parts = image[: height * PATCH, : width * PATCH].reshape(height, PATCH, width, PATCH, 3).transpose(0, 2, 4, 1, 3)
        return np.ascontiguousarray(parts.reshape(-1, 3, PATCH, PATCH)), (height, width)  # [n, 3, P, P] uint8

    def asked(self, image: np.ndarray):
        return self.picture(image)

    def frame(self, image: np.ndarray):
        """At half the resolution."""
        return self.picture(image[::2, ::2])


class Native(InternVL):
    def encode(self, tiles, counts, grids):
        return list((tiles.flatten(1).float() / 255).split(list(counts)))  # N of [n, 3 * P * P]

    def project(self, features, grids, rows):
        tokens = self.projector(torch.cat(list(features))).split([len(each) for each in features])
        deep = [0.5 * each.flip(0)[:, None] for each in tokens]  # N of [n, 1, D]
        return [Shown(tokens[row], deep[row], cells=tokens[row], grid=grids[row]) for row in rows]

    def place(self, text, at, pictures, regions):
        """A picture takes as many positions as its longer side has tokens; all its tokens share the first number."""
        columns, used = [], 0
        deep = torch.zeros(len(text), 1, text.shape[1])
        for picture in pictures:
            start = int(at.nonzero()[used])  # of the sequence; a picture's tokens stand together
            height, width = picture.grid
            texts = start - sum(part.shape[1] for part in columns)
            first = 0 if not columns else int(torch.cat(columns, 1).max()) + 1
            columns.append((first + torch.arange(texts)).expand(3, -1))
            first += texts
            rows, across = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            columns.append(first + torch.stack([torch.zeros_like(rows), rows, across]).flatten(1))  # [3, n]
            deep = torch.cat([deep[:start], picture.deep.to(deep.dtype), deep[start + len(picture.tokens) :]])
            used += len(picture.tokens)
        placed = torch.cat(columns, 1)
        left = torch.arange(len(text) - placed.shape[1]) + placed.max() + 1
        return Prompt(put(text, at, [*pictures, *regions]), torch.cat([placed, left.expand(3, -1)], 1), deep)

    def forward(self, embeddings, positions, deep=None, real=None, cache=None):
        if deep is not None:
            embeddings = embeddings + deep.sum(2)
        if real is None:
            real = torch.ones(embeddings.shape[:2], dtype=torch.long)
        given = {"attention_mask": real, "position_ids": positions[1], "past_key_values": cache, "use_cache": cache is not None}
        last = self.llm.model(inputs_embeds=embeddings, **given).last_hidden_state
        return States(last, last)


class NativeSizes(InternVLSizes):
    def build(self):
        return Native(self)

    def pictures(self, most):
        return Patches()


def native_model() -> Sa2va:
    """Untrained, the same each time."""
    sizes = Sizes(
        vision_width=3 * PATCH * PATCH // 4, vision_layers=1, llm_width=32, llm_layers=2, sam_size=64, sam_width=32, hiera_width=8
    )
    tokenizer = train_tokenizer(["a red square on the left"], 400, "qwen_chat")
    config = parse_config(published_config(sizes, len(tokenizer), tokenizer.eos_token_id, "qwen_chat"))
    torch.manual_seed(0)
    network = Network(dataclasses.replace(config, backend=NativeSizes(**vars(config.backend))))
    for parameter in (network.backend.embedding, network.backend.head.weight):
        torch.nn.init.normal_(parameter, std=0.5)
    text = Text(tokenizer, "qwen_chat", INTERNVL, None)
    return Sa2va(network, text, None, None, ["projector", "text_hidden_fcs", "sam2_decoder"], 1).eval()
