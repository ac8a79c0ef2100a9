"""The interface between Sa2VA and the vision-language model under it (InternVL, Qwen2.5-VL, Qwen3-VL).

Sa2VA brings its own parts: prompts, region tokens, the [SEG] path to SAM2, groups, generation. A backend turns a picture
into tokens and reads a sequence. Nothing here knows of tiles: a picture has as many tokens as its backend gives it, and its
own region grid, gh x gw. A token's position is ``a`` numbers: one, or three with M-RoPE.

Shape letters as in ``core.contracts``; L tokens of a sequence, k layers that a picture's deeper features are added to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plugins.models.sa2va.groups import Prefixes
from plugins.models.sa2va.prompts import Marks

if TYPE_CHECKING:  # the preparation, which works in the loader's processes, reads this file: transformers would cost each of them 100 MB
    from transformers import PretrainedConfig
    from transformers.cache_utils import Cache

Grid = tuple[int, int]  # rows and columns of the cells that regions of one picture are made of


class Pictures(Protocol):
    """Pictures as the backend's encoder takes them. Picklable and free of weights: it runs in the loader's workers."""

    def picture(self, image: np.ndarray, fast: bool = False) -> tuple[np.ndarray, Grid]:
        """[H, W, 3] uint8 -> [n, ...] uint8 (tiles, or patches) and the picture's region grid. ``fast``: not upstream's exact pixels."""
        ...

    def asked(self, image: np.ndarray) -> tuple[np.ndarray, Grid]:
        """The same for a question, where upstream's inference prepares a picture differently from its training."""
        ...

    def frame(self, image: np.ndarray) -> tuple[np.ndarray, Grid]:
        """The same for a frame of a video that is asked about, which may have fewer tokens."""
        ...


@dataclass(frozen=True)
class Piece:
    """Tokens that are no text."""

    tokens: Tensor  # [n, D]
    deep: Tensor | None = None  # [n, k, D], added to the states of the first k layers (DeepStack)


@dataclass(frozen=True)
class Shown(Piece):
    """One picture as the language model reads it: all its tokens in the order of the sequence."""

    _: KW_ONLY
    cells: Tensor  # [gh * gw, D], row by row: what region tokens are taken from
    grid: Grid
    deep_cells: Tensor | None = None  # [gh * gw, k, D]

    def region(self, chosen: Tensor, gate: Tensor | None = None) -> Piece:
        """The cells that are ``chosen`` [gh * gw] bool, times ``gate`` [gh * gw]."""
        tokens, deep = self.cells[chosen], None if self.deep_cells is None else self.deep_cells[chosen]
        if gate is None:
            return Piece(tokens, deep)
        share = gate[chosen, None]  # [n, 1]
        return Piece(tokens * share.to(tokens.dtype), None if deep is None else deep * share[:, None].to(deep.dtype))


class States(NamedTuple):
    """What the language model makes of B sequences, [B, L, D] each; of most models both are one."""

    last: Tensor  # after the final norm: what the output layer reads
    seg: Tensor  # what text_hidden_fcs reads where a [SEG] stands


@dataclass(frozen=True)
class Prompt:
    """A sequence put together."""

    embeddings: Tensor  # [L, D]
    positions: Tensor  # [a, L] int64
    deep: Tensor | None = None  # [L, k, D], zero where there is no picture

    def __len__(self) -> int:
        return len(self.embeddings)

    def followed_by(self, *texts: Tensor) -> Prompt:
        """Goes on with texts [n_i, D], whose positions follow the largest so far."""
        embeddings = torch.cat([self.embeddings, *(text.to(self.embeddings.dtype) for text in texts)])
        added = len(embeddings) - len(self)
        new = self.positions.amax() + 1 + torch.arange(added, device=self.positions.device)  # [n]
        positions = torch.cat([self.positions, new.expand(len(self.positions), -1)], dim=1)
        return Prompt(embeddings, positions, None if self.deep is None else F.pad(self.deep, (0, 0, 0, 0, 0, added)))


class Backend(Protocol):
    """A vision-language model. It is no module itself: ``parts`` are, and they keep their names in the network."""

    marks: Marks  # the texts around a picture
    groups: Prefixes  # of the parameters in ``parts``
    layers: int  # of the language model, each with keys and values to be cached
    longest: int | None  # tokens of the longest sequence that ``forward`` takes; None: it refuses none

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Name in ``Network`` -> module, in the order in which they are made."""
        ...

    @property
    def llm(self) -> nn.Module:
        """The language model with its head, which adapters are put on; it has ``model.embed_tokens``, ``model.layers``, ``lm_head``."""
        ...

    @property
    def head(self) -> nn.Module:
        """The output layer, D to V; it may share its weight with the embedding or not."""
        ...

    @property
    def embedding(self) -> nn.Parameter:
        """[V, D]."""
        ...

    def embed(self, ids: Tensor) -> Tensor:
        """[...] int64 -> [..., D]."""
        ...

    def encode(self, tiles: Tensor, counts: Sequence[int], grids: Sequence[Grid]) -> list[Any]:
        """Features of N pictures up to the projector, in the backend's own form: [sum(counts), ...] uint8 as ``Pictures`` made them."""
        ...

    def project(self, features: Sequence[Any], grids: Sequence[Grid], rows: Sequence[int]) -> list[Shown]:
        """Through the projector, each picture once -> for each of ``rows`` the picture ``features[row]``."""
        ...

    def place(self, text: Tensor, at: Tensor, pictures: Sequence[Shown], regions: Sequence[Piece]) -> Prompt:
        """Puts the tokens of pictures, then those of regions, at the true places of ``at`` [L] in ``text`` [L, D], left to right.

        Numbers the positions. Raises ``ValueError`` where tokens and places differ in number.
        """
        ...

    def forward(
        self, embeddings: Tensor, positions: Tensor, deep: Tensor | None = None, real: Tensor | None = None, cache: Cache | None = None
    ) -> States:
        """[B, L, D], positions [a, B, L], deep [B, L, k, D] -> states [B, L, D]; causal.

        Without ``cache`` rows are padded at the right. With it, they follow what it holds: ``real`` [B, cached + L] int64 says which
        keys count, padding at the left; None: all, and nothing is cached yet. Raises ``UserError`` for what is longer than ``longest``.
        """
        ...


class Largest(NamedTuple):
    """The largest picture that a backend makes."""

    tokens: int
    cells: int  # of its region grid
    numbers: int  # uint8, as ``Pictures`` lays it out


class BackendConfig(Protocol):
    """Sizes of a backend; makes it."""

    @property
    def llm(self) -> PretrainedConfig:
        """Of the language model: ``hidden_size`` (D), ``intermediate_size``, ``num_hidden_layers``, ``tie_word_embeddings``."""
        ...

    @property
    def marks(self) -> Marks: ...

    def build(self) -> Backend: ...

    def pictures(self, most: int) -> Pictures:
        """``most``: the recipe's ``max_tiles``."""
        ...

    def largest(self, most: int) -> Largest: ...

    @property
    def deep(self) -> int:
        """k of ``Shown``; 0 where there are no deeper features."""
        ...


def put(text: Tensor, at: Tensor, pieces: Sequence[Piece]) -> Tensor:
    """The embeddings [L, D] of ``Backend.place``, where ``pieces`` are its pictures and regions."""
    features = torch.cat([piece.tokens for piece in pieces])  # [n, D]
    if int(at.sum()) != len(features):
        raise ValueError(f"{int(at.sum())} image tokens in the prompt, {len(features)} features")
    return torch.masked_scatter(text.to(features.dtype), at[:, None], features)
