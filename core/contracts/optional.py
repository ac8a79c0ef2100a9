"""What a component may offer beyond its kind's contract. The engine asks with ``isinstance``, never for a name.

``OPTIONAL`` lists the offers of each kind: ``components explain`` shows them, ``components doctor`` and the kits check that
what a component declares is whole and spelt right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from core.contracts.results import Item, Picture

if TYPE_CHECKING:
    from torch import Tensor


# ---------------------------------------------------------------------------------------------- datasets


@runtime_checkable
class GroupsByPicture(Protocol):
    """The regions of one picture are known, so that it may be encoded once for all of them."""

    def images(self) -> list[list[int]]:
        """The indices, grouped by picture; each index once."""
        ...


@runtime_checkable
class KnowsCocoPictures(Protocol):
    """Its pictures are COCO's: ``core.check`` looks for pictures that are both trained on and evaluated on."""

    def coco_images(self) -> set[int]: ...


# ---------------------------------------------------------------------------------------------- models, once built


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


# ---------------------------------------------------------------------------------------------- models, before they are built


@runtime_checkable
class TellsFacts(Protocol):
    """Offered by the component itself (see ``offers``): facts about a model that need none of its weights, for ``core.check``."""

    def facts(self, **given: Any) -> Mapping[str, Any]:
        """Takes the component's keys of the recipe. Raises ``UserError`` for files that no model can be built from.

        ``preparation``; ``tokens(text)``, the tokens of a caption with the turn's end; ``parameters`` and ``trained`` (group ->
        count); ``frozen_bytes`` of one frozen parameter; ``activations(batch, caption)``, bytes that one forward keeps for its
        backward pass; ``seg``: (status, sentence) on whether the [SEG] token can be emitted, and learned.
        """
        ...


@runtime_checkable
class ReadsFiles(Protocol):
    """Of the component itself (see ``offers``): the files that ``core.evaluate`` and ``core.convert`` may hand to it."""

    def reads(self, path: Path, base: Path | None) -> Mapping[str, Path] | None:
        """The component's keys for ``path``, and for ``base``, which a file of trained tensors needs; None: not mine."""
        ...


# ---------------------------------------------------------------------------------------------- loops


@runtime_checkable
class NeedsSomething(Protocol):
    """Of the component itself: a class attribute, read before anything is built. See ``Loop.needs``."""

    needs: frozenset[str]


# ---------------------------------------------------------------------------------------------- training


@runtime_checkable
class ReportsStatistics(Protocol):
    def statistics(self) -> dict[str, float]:
        """Logged after every update as ``teacher/NAME``."""
        ...


@runtime_checkable
class PerParameter(Protocol):
    """With ``per_parameter = True``, P in ``Gram`` is the number of parameters, with the names ``group/parameter``."""

    per_parameter: bool


@runtime_checkable
class Stateful(Protocol):
    """A gradient op that keeps state from one update to the next; it goes into checkpoints."""

    def state_dict(self) -> dict[str, Any]:
        """What JSON can carry."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class KeepsRunningGradient(Protocol):
    """The engine keeps the running mean of one loop's gradients.

    If other loops take part in an update, the gradient op sees this mean under the loop's name, with scale 0: it may subtract the mean
    from the other gradients. The loop's own gradient, if it takes part, enters with its weight in the recipe.
    """

    running: tuple[str, float]  # (loop, decay)


# ---------------------------------------------------------------------------------------------- evaluators and trackers


@runtime_checkable
class ShowsPictures(Protocol):
    def picture(self, item: Item) -> Picture:
        """A row of the picture sheet."""
        ...


@runtime_checkable
class WholeMetrics(Protocol):
    def whole(self, items: Sequence[Item]) -> dict[str, float]:
        """Metrics of all items together that no sums give; they get no interval."""
        ...


@runtime_checkable
class InBackground(Protocol):
    """With ``background = True`` all calls of the tracker come from a thread of its own."""

    background: bool


@runtime_checkable
class ShowsPanels(Protocol):
    def panels(self, update: int, name: str, pictures: Sequence[Picture]) -> None:
        """The pictures of a sheet themselves, for a tracker that shows masks and texts in its own way."""
        ...


#: kind -> what a component of it may offer. Those of ``BEFORE_BUILDING`` are looked for on the component itself, not on what it builds.
OPTIONAL: dict[str, tuple[type, ...]] = {
    "datasets": (GroupsByPicture, KnowsCocoPictures),
    "models": (ReportsChanges, VerifiesExport, ExportsAdapters, ExportsTrainingFile, KnowsBaseValues, TellsFacts, ReadsFiles),
    "teachers": (ReportsStatistics,),
    "gradient_ops": (PerParameter, Stateful),
    "schedules": (KeepsRunningGradient,),
    "evaluators": (ShowsPictures, WholeMetrics),
    "trackers": (InBackground, ShowsPanels),
}
BEFORE_BUILDING: tuple[type, ...] = (TellsFacts, ReadsFiles)

Function = TypeVar("Function", bound=Callable[..., Any])


def offers(**functions: Callable[..., Any]) -> Callable[[Function], Function]:
    """Declares what a component that is a function offers before it has built anything: ``@offers(facts=..., reads=...)``."""

    def declare(component: Function) -> Function:
        for name, function in functions.items():
            setattr(component, name, function)
        return component

    return declare
