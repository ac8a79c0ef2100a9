"""Kind ``models``: the contract of a network that segments and describes, in its parts. Shape letters: ``core.contracts``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from core.contracts.travel import Prediction, Region, RegionBatch, Segmentation, Tokens, Wording

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


class Noise(Protocol):
    """All randomness of an update, derived from (seed, update, sample id, purpose): never from worker or rank."""

    update: int

    def generator(self, sample: str, purpose: str) -> torch.Generator:
        """A fresh CPU generator; the same arguments always give the same draws."""
        ...


class Preparation(Protocol):
    """The model's preparation; picklable and free of weights, it runs in the loader's workers."""

    def __call__(self, region: Region, needs: frozenset[str] = frozenset()) -> Any:
        """One prepared sample.

        ``needs``: of {"caption"} (one must be there) and {"empty_mask"} (a region whose mask is empty is a sample, otherwise it is a
        bad one). Raises ``BadSample``, also for a mask of which nothing is left at the model's size.
        """
        ...

    def collate(self, samples: Sequence[Any]) -> RegionBatch:
        """The samples in their order. ``categories``, ``extra`` and ``for_teacher`` are the engine's to fill in."""
        ...


#: Of a model's arithmetic. ``auto``: bf16 where the frozen weights are stored in 16 bit, else fp32.
Precision = Literal["auto", "fp32", "bf16"]


@runtime_checkable
class Writing(Protocol):
    """Text to tokens and embeddings, and back."""

    ordinary_tokens: Tensor  # [n] int64: ids that are no special token, from which pseudo captions are masked
    pad_token: int

    def tokenize(self, texts: Sequence[str], length: int) -> Tokens:
        """Captions as answers: ordinary tokens and the turn's end, cut to ``length`` tokens."""
        ...

    def phrases(self, texts: Sequence[str], length: int) -> Tokens:
        """Texts as they stand inside the segmentation request (with the space before them), cut to ``length`` tokens."""
        ...

    def decode(self, tokens: Tokens) -> list[str]:
        """The text of each row, without special tokens and the turn's end."""
        ...

    def embed(self, ids: Tensor) -> Tensor:
        """Rows of the token embedding: [...] int64 -> [..., D]."""
        ...

    def embedding(self) -> Tensor:
        """The token embedding itself, [V, D]."""
        ...

    def head(self) -> tuple[Tensor, Tensor | None]:
        """The output layer: weight [V, D] and bias [V] or None."""
        ...


@runtime_checkable
class Describing(Protocol):
    """Mask to caption."""

    def generate(self, vision: Any, view: Tensor, cells: Sequence[Tensor], length: int) -> Tokens:
        """Greedy captions, at most ``length`` tokens, of the regions ``cells`` (B of [gh, gw] bool) of pictures ``view`` [B]."""
        ...

    def caption_states(
        self, vision: Any, view: Tensor, cells: Sequence[Tensor], captions: Tokens, gate: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Teacher-forced description: [B, T, D]; row t is the state from which caption token t is predicted.

        ``cells`` and ``gate`` are B of [gh, gw], each in the grid of its own picture; ``gate`` multiplies the chosen region tokens.
        An empty region list is allowed.
        """
        ...


@runtime_checkable
class Segmenting(Protocol):
    """Caption to mask."""

    def wording(self, samples: Sequence[str], noise: Noise | None) -> Wording:
        """The segmentation request; drawn from a handful of rewordings, or the canonical one without ``noise``."""
        ...

    def segment(self, vision: Any, view: Tensor, text: Tensor, text_mask: Tensor, wording: Wording) -> Segmentation:
        """Teacher-forced segmentation of the phrase given as embeddings ``text`` [B, T, D], real at ``text_mask``."""
        ...

    def seg_embedding(self, states: Tensor) -> Tensor:
        """[B, D] states -> [B, D2], what the mask decoder takes as the language prompt (``text_hidden_fcs``)."""
        ...

    def masks(self, vision: Any, view: Tensor, embedding: Tensor) -> Tensor:
        """[B, D2] language prompts about pictures ``view`` [B] -> [B, h, w] float32 mask logits."""
        ...

    def predict(self, image: np.ndarray, phrases: Sequence[str], max_new_tokens: int) -> list[Prediction]:
        """Generates the answer to each phrase about one picture [H, W, 3] uint8; the first [SEG] gives the mask."""
        ...


@runtime_checkable
class Publishing(Protocol):
    """The model as files. What else a model may offer of this is in ``core.contracts.optional``."""

    def save(self, folder: Path) -> None:
        """Writes the model as a checkpoint folder in its published layout. Raises ``UserError`` if ``folder`` exists."""
        ...


@runtime_checkable
class Model(Writing, Describing, Segmenting, Publishing, Protocol):
    """Kind ``models``: a network that segments and describes; all four parts, and what training needs besides."""

    preparation: Preparation

    def trainable(self) -> dict[str, list[tuple[str, torch.nn.Parameter]]]:
        """The trained parameters: group name -> (stable name, float32 parameter)."""
        ...

    def computing(self, training: bool, precision: Precision = "auto") -> AbstractContextManager[None]:
        """Around every forward: the one place that decides autocast, gradient, and train or eval mode of all submodules.

        With ``training`` the modules train and gradients flow; without it, they evaluate and none does. ``precision`` is that of
        the arithmetic: ``auto`` is what suits the type of the frozen weights. It may be entered again inside itself, as a teacher
        does in a training step; on leaving, everything is as it was. Raises ``UserError`` for a precision that these weights
        do not allow.
        """
        ...

    def encode(self, batch: RegionBatch) -> Any:
        """Features of the N pictures up to the first trained layer, computed once and shared by all forwards."""
        ...
