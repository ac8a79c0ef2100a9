"""What a model may offer beyond its contract; see ``core.contracts.optional``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


# ---------------------------------------------------------------------------------------------- once built


@runtime_checkable
class ReportsChanges(Protocol):
    def changes(self, folder: Path) -> list[dict[str, Any]]:
        """How an export differs from what training started from, a row for each group: ``group``, ``tensors``, ``changed``,
        ``dtype``, ``bytes``, ``relative_norm``."""
        ...


@runtime_checkable
class VerifiesExport(Protocol):
    def verify(self, folder: Path) -> dict[str, float]:
        """Reloads an export; the largest differences to this model: ``logits``, ``mask_logits``, ``mask_pixels``, ``tensors``."""
        ...


@runtime_checkable
class GivesRegionTokens(Protocol):
    def region_tokens(self, vision: Any, view: Tensor, cells: Sequence[Tensor]) -> list[Tensor]:
        """What the language model reads of each region: B of [n_i, D], with a gradient to the projector.

        ``vision``: of ``Model.encode``; ``view`` [B] int64: each region's picture; ``cells``: B of [gh, gw] bool.
        """
        ...


@runtime_checkable
class ExportsAdapters(Protocol):
    def save_adapter(self, folder: Path) -> None:
        """Writes the adapters alone in PEFT's layout. Raises ``UserError`` where there are none."""
        ...


@runtime_checkable
class ExportsTrainingFile(Protocol):
    def save_legacy(self, file: Path) -> None:
        """Writes the trained tensors as a training file ``.pth`` of upstream's own trainer."""
        ...


@runtime_checkable
class KnowsBaseValues(Protocol):
    """A model that may be read from a training file, and then knows what training started from."""

    def base_values(self) -> Mapping[str, Tensor]:
        """``group/name`` -> the trained parameter's value before training, on any device.

        Raises ``UserError`` for a model that was not read from such a file.
        """
        ...


@dataclass(frozen=True)
class Answer:
    """A generated answer, and a mask for each [SEG] in it: [H, W] bool of a picture, [n, H, W] bool of a video."""

    text: str
    masks: list[np.ndarray] = field(default_factory=list)


@runtime_checkable
class AnswersQuestions(Protocol):
    """A model that one can talk to, for ``core.ask``; the mask of a phrase and the description of a region need no more than ``Model``."""

    def ask(self, visual: np.ndarray | Sequence[np.ndarray], question: str, regions: np.ndarray | None, max_new_tokens: int) -> Answer:
        """The answer to a question about a picture [H, W, 3] uint8, or about a video, a sequence of frames of one size.

        ``regions`` [n, H, W] bool of a picture are called region1, region2, ... in the question. Raises ``UserError``.
        """
        ...

    def segmentation_request(self, phrase: str) -> str:
        """The question whose answer holds the mask of ``phrase``, in the words that evaluation uses."""
        ...


@runtime_checkable
class FollowsUpstream(Protocol):
    """A model that answers, unless told otherwise, as it is trained, and not as the code that its checkpoints were published with."""

    def follow_upstream(self) -> None:
        """From now on ``ask`` computes exactly what that code does, for ``core.ask --upstream``."""
        ...


@runtime_checkable
class TellsLeftOut(Protocol):
    """A model that may be read from a training file, of which it does not take everything."""

    def left_out(self) -> Mapping[str, Sequence[str]]:
        """Group -> tensors of the file that were not taken though they are not the base's; empty where there are none."""
        ...


# ---------------------------------------------------------------------------------------------- before it is built


@dataclass(frozen=True)
class Work:
    """What a task asks of a model for one micro-batch, as far as its memory depends on it."""

    regions: int
    pictures: int  # that the model encodes for them
    forwards: tuple[str, ...]  # methods of ``Model`` with gradient, in the order in which they are called
    caption: int  # tokens of a caption
    recompute: bool  # layers are computed again in backward (``train.activation_checkpointing``)
    half: bool  # forwards in 16 bit


@runtime_checkable
class TellsFacts(Protocol):
    """Offered by the component itself (see ``offers``): facts about a model that need none of its weights, for ``core.check``."""

    def facts(self, **given: Any) -> Mapping[str, Any]:
        """Takes the component's keys of the recipe. Raises ``UserError`` for files that no model can be built from.

        ``preparation``; ``tokens(text)``, the tokens of a caption with the turn's end; ``parameters`` and ``trained`` (group ->
        count); ``frozen_bytes`` of one frozen parameter; ``working(work)``, the bytes that a micro-batch (``Work``) takes at most on a GPU
        beside weights, gradients and the optimizer's state; ``prepared(work)``, those of its samples as loaders hand them over;
        ``seg``: (status, sentence) on whether the [SEG] token can be emitted, and learned; ``left_out``: the same on what a file of
        trained tensors holds and is not taken.
        """
        ...


@runtime_checkable
class TellsIdentity(Protocol):
    """Offered by the component itself (see ``offers``): which known model its keys name, for ``core.run --check`` and ``core.check``."""

    def identity(self, **given: Any) -> str | None:
        """Takes the component's keys of the recipe; a sentence, or None where nothing can be said. Quick; raises nothing."""
        ...


@runtime_checkable
class ReadsFiles(Protocol):
    """Of the component itself (see ``offers``): the files that ``core.evaluate`` and ``core.convert`` may hand to it."""

    def reads(self, path: Path, base: Path | None) -> Mapping[str, Path] | None:
        """The component's keys for ``path``, and for ``base``, which a file of trained tensors needs; None: not mine.

        Raises ``UserError`` for what it knows and cannot read: its sentence says what that is and what to do.
        """
        ...
