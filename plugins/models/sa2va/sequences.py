"""Prompts put together: the same code makes those of training and of inference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from plugins.models.sa2va import prompts
from plugins.models.sa2va.backend import Backend, Piece, Prompt, Shown, States
from plugins.models.sa2va.text import Text
from plugins.models.sa2va.vision import Vision


class Sequences:
    """Puts image tokens, region tokens and texts together as ``prompts`` spells them."""

    def __init__(self, backend: Backend, text: Text) -> None:
        self.backend, self.text = backend, text

    def embed(self, ids: Tensor) -> Tensor:
        """Rows of the token embedding: [...] int64 -> [..., D]."""
        return self.backend.embed(ids)

    def shown(self, vision: Vision, view: Tensor) -> list[Shown]:
        """Each row's picture (B); each picture goes through the projector once."""
        pictures, rows = view.unique(return_inverse=True)
        chosen = pictures.tolist()
        return self.backend.project([vision.features[i] for i in chosen], [vision.grids[i] for i in chosen], rows.tolist())

    def fill(self, text: str, pictures: Sequence[Shown], regions: Sequence[Piece] = ()) -> Prompt:
        """A prompt; pictures, then regions, take the places of its image tokens, left to right."""
        ids = torch.tensor(self.text.ids(text), device=pictures[0].tokens.device)  # [L]
        return self.backend.place(self.embed(ids), ids == self.text.image, pictures, regions)

    def describe(self, vision: Vision, view: Tensor, cells: Sequence[Tensor], gate: Sequence[Tensor] | None = None) -> list[Prompt]:
        """The request for a description of each region ``cells``, B of [gh, gw] bool; ``gate``, B of [gh, gw], multiplies its tokens."""
        sequences = []
        for row, picture in enumerate(self.shown(vision, view)):
            region = picture.region(cells[row].flatten(), None if gate is None else gate[row].flatten())
            text = prompts.describe_turn(self.text.turn, len(picture.tokens), len(region.tokens) or None)
            sequences.append(self.fill(text, [picture], [region]))
        return sequences

    def segment(
        self,
        vision: Vision,
        view: Tensor,
        phrases: list[Tensor],
        before: Sequence[str],
        after: Sequence[str],
        turn: prompts.TurnFormat | None = None,
    ) -> list[Prompt]:
        """The request for the mask of each phrase, B of [t_i, D], between its texts ``before`` and ``after``; ``turn``: as in training."""
        turn, sequences = turn or self.text.turn, []
        for row, picture in enumerate(self.shown(vision, view)):
            left, right = prompts.segment_turn(turn, len(picture.tokens), before[row], after[row])
            tail = self.embed(torch.tensor(self.text.ids(right), device=picture.tokens.device))
            sequences.append(self.fill(left, [picture]).followed_by(phrases[row], tail))
        return sequences

    def predicting(self, heads: list[Prompt], bodies: list[Tensor], length: int) -> tuple[Tensor, Tensor]:
        """States that predict each body token [B, length, D] (zero at padding), and what a [SEG] there gives after it is read."""
        states = self.read([head.followed_by(body) for head, body in zip(heads, bodies, strict=True)])  # [B, L, D]
        last = states.last.unbind()  # B of [L, D]: the backward of a slice fills all that it is a slice of
        seg = last if states.seg is states.last else states.seg.unbind()
        before, after = [], []
        for row, (head, body) in enumerate(zip(heads, bodies, strict=True)):
            start, end, missing = len(head), len(head) + len(body), length - len(body)
            before.append(F.pad(last[row][start - 1 : end - 1], (0, 0, 0, missing)))
            after.append(F.pad(seg[row][start:end], (0, 0, 0, missing)))
        return torch.stack(before), torch.stack(after)

    def read(self, rows: Sequence[Prompt]) -> States:
        """Whole sequences, padded at the right -> [B, L, D]. Causal, so that the padding changes nothing."""
        embeddings = pad_sequence([row.embeddings for row in rows], batch_first=True)  # [B, L, D]
        positions = pad_sequence([row.positions.mT for row in rows], batch_first=True).movedim(2, 0)  # [a, B, L]
        deep = [row.deep for row in rows if row.deep is not None]
        return self.backend.forward(embeddings, positions, pad_sequence(deep, batch_first=True) if deep else None)  # deep [B, L, k, D]
