"""One small protocol for each kind of component but models (``core.contracts.model``), and the table of kinds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from core.contracts.model import Model, Noise
from core.contracts.results import Item, RunInfo
from core.contracts.travel import Gram, LossTerms, Region, RegionBatch, Tokens

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


@runtime_checkable
class Dataset(Protocol):
    """Kind ``datasets``: a finite, indexable source of regions. ``root`` and other paths are ``Path`` parameters."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Region:
        """Raises ``BadSample`` for a sample that cannot be used and ``UserError`` for a damaged source."""
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
    """Kind ``teachers``: slow weights that label data."""

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
    """Kind ``gradient_ops``: the update is ``sum_i w_i g_i`` with weights read off the Gram matrix."""

    def weights(self, gram: Gram) -> Tensor:
        """[P, n] float64: a weight for each loop's gradient within each parameter group."""
        ...


@runtime_checkable
class Schedule(Protocol):
    """Kind ``schedules``: which loops take part in an update, in which order."""

    def loops(self, update: int) -> Sequence[str]: ...


@runtime_checkable
class OptimizerFactory(Protocol):
    """Kind ``optimizers``: builds a torch optimizer and its learning-rate schedule."""

    def build(self, groups: Mapping[str, Sequence[tuple[str, torch.nn.Parameter]]], updates: int) -> tuple[Any, Any]:
        """(torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler) over ``updates`` steps.

        The engine steps the rate once in each update, and as often when it resumes: the rate depends on nothing else.
        """
        ...


@runtime_checkable
class Evaluator(Protocol):
    """Kind ``evaluators``: measures a model unit by unit. A unit is a picture with everything that is asked about it.

    The engine shares units between processes, keeps their items on disk, and draws units anew for intervals. So a unit's
    items must depend on the model and the unit alone, and metrics are functions of sums over items.
    """

    def __len__(self) -> int:
        """The number of units."""
        ...

    def measure(self, model: Model, unit: int) -> list[Item]:
        """Called inside ``model.computing(training=False)``. A ``BadSample`` that it raises becomes an item with ``bad``."""
        ...

    def tally(self, items: Sequence[Item]) -> Mapping[str, np.ndarray]:
        """What each item adds: name -> [len(items)] numbers. ``items``: all that were measured but the bad ones, in order."""
        ...

    def metrics(self, sums: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Metrics from the tally's sums, elementwise: each sum is [R], one for each of R draws. Shares in 0..1, counts ``n_...``."""
        ...


@runtime_checkable
class Tracker(Protocol):
    """Kind ``trackers``: where numbers and pictures go."""

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
