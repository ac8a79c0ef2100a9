"""Prompts as embeddings [L, D]: the same code makes those of training and of inference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from plugins.models.sa2va import prompts
from plugins.models.sa2va.network import Network, Vision
from plugins.models.sa2va.text import Text


class Sequences:
    """Puts image tokens, region tokens and texts together as ``prompts`` spells them."""

    def __init__(self, network: Network, text: Text) -> None:
        self.network, self.text = network, text

    def embed(self, ids: Tensor) -> Tensor:
        """Rows of the token embedding: [...] int64 -> [..., D]."""
        return self.network.llm.model.embed_tokens(ids)

    def image_tokens(self, vision: Vision, view: Tensor) -> list[Tensor]:
        """Projected tokens of each row's picture, B of [n_i * G*G, D]; each picture goes through the projector once."""
        pictures, rows = view.unique(return_inverse=True)
        chosen = [vision.tiles[i] for i in pictures.tolist()]
        projected = self.network.image_tokens(torch.cat(chosen)).split([len(tiles) for tiles in chosen])
        return [projected[i].flatten(0, 1) for i in rows.tolist()]

    def last_tile(self, image: Tensor) -> Tensor:
        """[n * G*G, D] -> [G*G, D], the thumbnail or the only tile: what region tokens are taken from."""
        return image[-(self.network.config.grid**2) :]

    def fill(self, text: str, features: Tensor) -> Tensor:
        """Embeds a prompt [L, D]; ``features`` [n, D] take the places of its image tokens, left to right."""
        ids = torch.tensor(self.text.ids(text), device=features.device)
        places = ids == self.text.image
        if int(places.sum()) != len(features):
            raise ValueError(f"{int(places.sum())} image tokens in the prompt, {len(features)} features")
        return torch.masked_scatter(self.embed(ids).to(features.dtype), places[:, None], features)

    def describe(self, vision: Vision, view: Tensor, cells: Tensor, gate: Tensor | None = None) -> list[Tensor]:
        """The request for a description of each region ``cells`` [B, G, G]; ``gate`` [B, G, G] multiplies its tokens."""
        sequences = []
        for row, image in enumerate(self.image_tokens(vision, view)):
            last = self.last_tile(image)
            chosen = cells[row].flatten()  # [G*G]
            region = last[chosen] if gate is None else last[chosen] * gate[row].flatten()[chosen, None].to(last.dtype)
            count = int(chosen.sum())
            text = prompts.describe_turn(self.text.turn, len(image), count or None)
            sequences.append(self.fill(text, torch.cat([image, region])))
        return sequences

    def segment(self, vision: Vision, view: Tensor, phrases: list[Tensor], before: Sequence[str], after: Sequence[str]) -> list[Tensor]:
        """The request for the mask of each phrase, B of [t_i, D], between its texts ``before`` and ``after``."""
        sequences = []
        for row, image in enumerate(self.image_tokens(vision, view)):
            left, right = prompts.segment_turn(self.text.turn, len(image), before[row], after[row])
            tail = self.embed(torch.tensor(self.text.ids(right), device=image.device))
            sequences.append(torch.cat([self.fill(left, image), phrases[row].to(image.dtype), tail.to(image.dtype)]))
        return sequences

    def predicting(self, heads: list[Tensor], bodies: list[Tensor], length: int) -> tuple[Tensor, Tensor]:
        """States that predict each body token [B, length, D] (zero at padding), and those after reading it, of one forward."""
        sequences = [torch.cat([head, body.to(head.dtype)]) for head, body in zip(heads, bodies, strict=True)]
        states = self.network.hidden_states(pad_sequence(sequences, batch_first=True))  # [B, L, D]
        before, after = [], []
        for row, (head, body) in enumerate(zip(heads, bodies, strict=True)):
            span, missing = states[row, len(head) - 1 : len(head) + len(body)], length - len(body)
            before.append(F.pad(span[:-1], (0, 0, 0, missing)))
            after.append(F.pad(span[1:], (0, 0, 0, missing)))
        return torch.stack(before), torch.stack(after)
