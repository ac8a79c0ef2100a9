"""What travels between the rooms, and one small protocol for each kind of component.

The core engine knows components only through these types; a plugin needs to import nothing else of the toolkit.
Importing this module does not import torch: the tensor types below are for readers and type checkers.

Shape letters: B regions in a micro-batch, N pictures in it, T caption tokens, A answer tokens, D hidden size,
V vocabulary, gh gw the grid of cells of one picture, of which its regions are made (each picture has its own: 16 x 16 for a
448-pixel tile), h w the low-resolution mask (a quarter of the SAM2 picture's side: 256 for 1024), n loops in an update,
P parameter groups, k of top-k.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


class BadSample(Exception):
    """One sample cannot be used. The engine counts it by source and reason and draws the next one.

    ``reason`` is a short, constant phrase (it is a counter's name); ``sample`` is the stable id; ``detail`` says more.
    """

    def __init__(self, reason: str, sample: str, detail: str = "") -> None:
        super().__init__(f"{sample}: {reason}" + (f" ({detail})" if detail else ""))
        self.reason, self.sample, self.detail = reason, sample, detail

    def __reduce__(self) -> tuple[type[BadSample], tuple[str, str, str]]:  # survives the trip from a loader's worker
        return type(self), (self.reason, self.sample, self.detail)


class UserError(Exception):
    """Something the user can put right. Shown as one sentence without a traceback; the command exits with 2."""


# ---------------------------------------------------------------------------------------------- what travels


@dataclass(frozen=True)
class Region:
    """One object of one picture, as a data set yields it; knows no model."""

    id: str  # stable over runs and machines, unique within the data set
    image: np.ndarray  # [H, W, 3] uint8, RGB
    mask: np.ndarray  # [H, W] bool
    caption: str | None = None  # a description or a referring phrase
    image2: np.ndarray | None = None  # [H2, W2, 3] uint8: a second view of the same object; None: the first again
    mask2: np.ndarray | None = None  # [H2, W2] bool


@dataclass
class RegionBatch:
    """B prepared regions. Every picture is held once: ``view1`` and ``view2`` point into the table of N pictures."""

    ids: list[str]  # B
    captions: list[str | None]  # B
    tiles: Tensor  # [sum(tile_counts), ...] uint8, the language model's view of the pictures, as the model lays it out
    tile_counts: list[int]  # N
    grids: list[tuple[int, int]]  # N, (gh, gw) of each picture
    sam_pictures: Tensor  # [N, 3, R, R] uint8, the mask decoder's view
    view1: Tensor  # [B] int64, row of the picture tables
    view2: Tensor  # [B] int64; equal to view1 where there is no second view
    cells: list[Tensor]  # B of [gh, gw] bool, grid cells of the first mask, in the grid of its own picture
    mask1: Tensor  # [B, h, w] bool
    mask2: Tensor  # [B, h, w] bool

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> RegionBatch:
        """The same batch with its tensors on ``device``."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return replace(
            self,
            tiles=moved(self.tiles),
            sam_pictures=moved(self.sam_pictures),
            view1=moved(self.view1),
            view2=moved(self.view2),
            cells=[moved(cells) for cells in self.cells],
            mask1=moved(self.mask1),
            mask2=moved(self.mask2),
        )

    def __getstate__(self) -> dict[str, Any]:
        """All cells as one tensor: on the way from a loader's worker each tensor takes a file handle."""
        import torch

        flat = torch.cat([cells.flatten() for cells in self.cells])  # [sum of gh * gw]
        return vars(self) | {"cells": (flat, [tuple(cells.shape) for cells in self.cells])}

    def __setstate__(self, state: dict[str, Any]) -> None:
        flat, grids = state["cells"]
        parts = flat.split([height * width for height, width in grids])
        vars(self).update(state, cells=[part.view(grid) for part, grid in zip(parts, grids, strict=True)])


@dataclass
class Tokens:
    """Right-padded token rows."""

    ids: Tensor  # [B, T] int64
    mask: Tensor  # [B, T] bool, True at real tokens; True comes before False in every row


@dataclass
class Wording:
    """How the segmentation request of each region is put: the text around the phrase, and the fixed answer."""

    before: list[str]  # B, e.g. "Please segment "
    after: list[str]  # B, e.g. " in this image."
    answers: Tokens  # [B, A], "Sure, it is [SEG]." and the turn's end


@dataclass
class Segmentation:
    """What one teacher-forced segmentation forward gives."""

    mask_logits: Tensor  # [B, h, w] float32, low resolution
    answer_states: Tensor  # [B, A, D], the state that predicts each answer token
    seg_embedding: Tensor  # [B, D2] float32, the [SEG] state after text_hidden_fcs: what the mask decoder was given


@dataclass(frozen=True)
class Prediction:
    """One generated answer to a referring phrase."""

    text: str
    mask: np.ndarray | None  # [H, W] bool at the picture's own size; None: no [SEG] was generated


@dataclass
class LossTerm:
    """A sum over ``count`` items (regions or tokens). The engine divides by the count over the whole update."""

    total: Tensor  # scalar, with gradient
    count: int
    weight: float = 1.0


@dataclass
class LossTerms:
    """What a loop returns for one micro-batch. ``metrics`` are (sum, count) pairs, averaged for the log."""

    terms: dict[str, LossTerm]
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Gram:
    """Inner products of the loops' gradients, already averaged over ranks and accumulated."""

    loops: tuple[str, ...]  # n names
    groups: tuple[str, ...]  # P names
    values: Tensor  # [P, n, n] float64, <g_i, g_j> within each parameter group
    scales: Tensor  # [n] float64, the loops' weights in the recipe (beta for loop 2)
    losses: Tensor | None = None  # [n] float64, the loops' losses in this update, over all ranks


@dataclass(frozen=True)
class Picture:
    """One row of a picture sheet: what was asked, the truth and the prediction."""

    title: str
    image: np.ndarray  # [H, W, 3] uint8
    truth: np.ndarray | None = None  # [H, W] bool
    predicted: np.ndarray | None = None  # [H, W] bool
    text: str = ""  # generated text
    score: float | None = None  # IoU or share of right tokens, 0..1


@dataclass(frozen=True)
class Evaluation:
    """An evaluator's result: metrics in 0..1 (counts are named ``n_...``) and some pictures."""

    metrics: dict[str, float]
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True)
class RunInfo:
    """What a tracker is told at the start."""

    folder: Path
    name: str
    recipe: dict[str, Any]  # resolved
    resumed_at: int  # 0 for a new run


# ---------------------------------------------------------------------------------------------- one protocol per kind


@runtime_checkable
class Dataset(Protocol):
    """Kind ``datasets``: a finite, indexable source of regions. ``root`` and other paths are ``Path`` parameters.

    Optional: ``images() -> list[list[int]]``, the indices grouped by picture, so that a picture may be encoded once.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Region:
        """Raises ``BadSample`` for a sample that cannot be used and ``UserError`` for a damaged source."""
        ...


class Noise(Protocol):
    """All randomness of an update, derived from (seed, update, sample id, purpose): never from worker or rank."""

    update: int

    def generator(self, sample: str, purpose: str) -> torch.Generator:
        """A fresh CPU generator; the same arguments always give the same draws."""
        ...


class Preparation(Protocol):
    """The model's preparation; picklable and free of weights, it runs in the loader's workers."""

    def __call__(self, region: Region, needs: frozenset[str] = frozenset()) -> Any:
        """One prepared sample. Raises ``BadSample``, also where something that ``needs`` names (see ``Loop``) is not there."""
        ...

    def collate(self, samples: Sequence[Any]) -> RegionBatch: ...


#: What a model computes in: its frozen weights' own type (``auto``), float32, or autocast to bfloat16.
Precision = Literal["auto", "fp32", "bf16"]


@runtime_checkable
class Model(Protocol):
    """Kind ``models``: a network that segments and describes."""

    preparation: Preparation
    ordinary_tokens: Tensor  # [n] int64: ids that are no special token, from which pseudo captions are masked
    pad_token: int

    def computing(self, training: bool, precision: Precision = "auto") -> AbstractContextManager[None]:
        """Inside it the model computes to be trained, or to be measured and asked: the one place for autocast, mode and gradient.

        ``training``: with gradient, modules in the mode that they have. Otherwise without gradient, every module in eval mode;
        each gets back the mode that it had. May be nested. ``precision``: ``auto`` follows the type of the frozen weights.
        Raises ``UserError`` for a precision that these cannot be computed in.
        """
        ...

    def trainable(self) -> dict[str, list[tuple[str, torch.nn.Parameter]]]:
        """The trained parameters: group name -> (stable name, float32 parameter)."""
        ...

    def encode(self, batch: RegionBatch) -> Any:
        """Features of the N pictures up to the first trained layer, computed once and shared by all forwards."""
        ...

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

    def save(self, folder: Path) -> None:
        """Writes the model as a checkpoint folder in its published layout. Raises ``UserError`` if ``folder`` exists."""
        ...

    def predict(self, image: np.ndarray, phrases: Sequence[str], max_new_tokens: int) -> list[Prediction]:
        """Generates the answer to each phrase about one picture [H, W, 3] uint8; the first [SEG] gives the mask."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """Kind ``samplers``: hidden states to soft text that carries gradient."""

    def __call__(
        self,
        states: Tensor,  # [B, T, D]
        head: tuple[Tensor, Tensor | None],  # [V, D], [V]
        embedding: Tensor,  # [V, D]
        generators: Sequence[torch.Generator],  # B, one for each row of states
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Text embeddings [B, T, D] and per-token diagnostics [B, T] (``topk_mass``, ``ids``: the hard choice)."""
        ...


@runtime_checkable
class Loss(Protocol):
    """Kind ``losses``: see ``MaskLoss`` and ``TokenLoss`` for the two call shapes."""

    weight: float

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor: ...


class MaskLoss(Loss, Protocol):
    """A loss between mask logits and masks, one value for each region."""

    def __call__(self, logits: Tensor, target: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """[B, h, w] logits, [B, h, w] bool, B generators -> [B] float32."""
        ...


class TokenLoss(Loss, Protocol):
    """A loss between predicting states and token ids, summed over the real tokens."""

    def __call__(self, states: Tensor, tokens: Tokens, head: tuple[Tensor, Tensor | None]) -> Tensor:
        """[B, T, D] states, [B, T] tokens, output layer -> scalar float32: the sum over real tokens."""
        ...


@runtime_checkable
class Teacher(Protocol):
    """Kind ``teachers``: slow weights that label data.

    Optional: ``statistics() -> dict[str, float]``, logged after every update as ``teacher/NAME``.
    """

    def start(self, groups: Mapping[str, Sequence[tuple[str, torch.nn.Parameter]]]) -> None: ...

    def weights(self) -> AbstractContextManager[None]:
        """Inside it the model computes with the teacher's weights, without gradient."""
        ...

    def update(self) -> None:
        """Called after each optimizer step."""
        ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


@runtime_checkable
class Loop(Protocol):
    """Kind ``loops``: one training task; receives its sampler and losses through its constructor."""

    needs: frozenset[str]  # of {"caption"} (a sample must have one) and {"teacher"} (the run must)

    def counts(self, model: Model, batch: RegionBatch, noise: Noise) -> dict[str, int]:
        """Items (regions or tokens) each loss term will sum over; cheap, called before any forward."""
        ...

    def __call__(self, model: Model, teacher: Teacher | None, batch: RegionBatch, noise: Noise) -> LossTerms: ...


@runtime_checkable
class GradientOp(Protocol):
    """Kind ``gradient_ops``: the update is ``sum_i w_i g_i`` with weights read off the Gram matrix.

    Optional: ``per_parameter = True``, and P is then the number of parameters, with the names ``group/parameter``;
    ``state_dict() -> dict`` of what JSON can carry, and ``load_state_dict(dict)``, for an op that keeps state.
    """

    def weights(self, gram: Gram) -> Tensor:
        """[P, n] float64: a weight for each loop's gradient within each parameter group."""
        ...


@runtime_checkable
class Schedule(Protocol):
    """Kind ``schedules``: which loops take part in an update, in which order.

    Optional: ``running = (loop, decay)``. The engine then keeps the running mean of that loop's gradients. In an update of
    other loops too, the gradient op sees this mean under the loop's name, with scale 0: what it subtracts of it comes out of
    the others, and the loop's own gradient, if it takes part, enters with its weight in the recipe.
    """

    def loops(self, update: int) -> Sequence[str]: ...


@runtime_checkable
class OptimizerFactory(Protocol):
    """Kind ``optimizers``: builds a torch optimizer and its learning-rate schedule."""

    def build(self, groups: Mapping[str, Sequence[tuple[str, torch.nn.Parameter]]], updates: int) -> tuple[Any, Any]:
        """(torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler) over ``updates`` steps.

        The engine steps the rate once in each update, and as often when it resumes: the rate depends on nothing else.
        """
        ...


#: What was measured of one expression or region, as JSON holds it. ``id``: the sample's. ``score``: 0..1, orders the picture
#: sheet. ``bad``: why there is no result. ``unit``: added by the engine. All else is the evaluator's own.
Item = dict[str, Any]


@runtime_checkable
class Evaluator(Protocol):
    """Kind ``evaluators``: measures a model unit by unit. A unit is a picture with everything that is asked about it.

    The engine shares units between processes, keeps their items on disk, and draws units anew for intervals. So a unit's
    items must depend on the model and the unit alone, and metrics are functions of sums over items.

    Optional: ``picture(item) -> Picture``, for sheets; ``whole(items) -> dict[str, float]``, metrics that no sums give (they
    get no interval).
    """

    def __len__(self) -> int:
        """The number of units."""
        ...

    def measure(self, model: Model, unit: int) -> list[Item]:
        """In eval mode without gradient. A ``BadSample`` that it raises becomes an item with ``bad``."""
        ...

    def tally(self, items: Sequence[Item]) -> Mapping[str, np.ndarray]:
        """What each item adds: name -> [len(items)] numbers. ``items``: all that were measured but the bad ones, in order."""
        ...

    def metrics(self, sums: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Metrics from the tally's sums, elementwise: each sum is [R], one for each of R draws. Shares in 0..1, counts ``n_...``."""
        ...


@runtime_checkable
class Tracker(Protocol):
    """Kind ``trackers``: where numbers and pictures go.

    Optional: ``background = True``, and all calls come from a thread of the tracker's own;
    ``panels(update, name, pictures: Sequence[Picture])``, the pictures of a sheet.
    """

    def start(self, run: RunInfo) -> None: ...

    def log(self, update: int, values: Mapping[str, float]) -> None: ...

    def picture(self, update: int, name: str, path: Path) -> None: ...

    def finish(self, summary: Mapping[str, float]) -> None: ...


class Batches(Protocol):
    """The micro-batches of one loop in one update: (task name, batch) in a fixed order."""

    def __iter__(self) -> Iterator[tuple[str, RegionBatch]]: ...


#: kind -> contract; the entry-point group is ``dualloop.<kind>``. Kinds are closed, the names in each are open.
KINDS: dict[str, type] = {
    "datasets": Dataset,
    "models": Model,
    "teachers": Teacher,
    "loops": Loop,
    "samplers": Sampler,
    "losses": Loss,
    "gradient_ops": GradientOp,
    "schedules": Schedule,
    "optimizers": OptimizerFactory,
    "evaluators": Evaluator,
    "trackers": Tracker,
}
