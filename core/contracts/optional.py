"""What a component may offer beyond its kind's contract. The engine asks with ``isinstance``, never for a name.

``OPTIONAL`` lists the offers of each kind: ``components explain`` shows them, ``components doctor`` and the kits check that
what a component declares is whole and spelt right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from core.contracts.results import Item, Picture, Sample

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from core.contracts.kinds import Dataset, Teacher
    from core.contracts.model import Model, Noise, Preparation
    from core.contracts.travel import Region, RegionBatch, Tokens
    from core.contracts.usage import StoredPicture, Usage


# ---------------------------------------------------------------------------------------------- datasets


@runtime_checkable
class GroupsByPicture(Protocol):
    """The regions of one picture are known, so that it may be encoded once for all of them."""

    def images(self) -> list[list[int]]:
        """The indices, grouped by picture; each index once."""
        ...


@runtime_checkable
class KnowsCocoPictures(Protocol):
    """Its pictures are COCO's own, under COCO's own numbers: ``core.check`` looks for some that are both trained on and evaluated on.

    For a published data set only: one's own exports count from 1 too. Their pictures are compared by content (``KnowsPictures``).
    """

    def coco_images(self) -> set[int]: ...


@runtime_checkable
class KnowsPictures(Protocol):
    """Its pictures lie in files: ``core.check`` compares what is in those that are trained on with those that are evaluated on."""

    def picture_files(self) -> Iterable[StoredPicture]:
        """Each picture that is used, once; those that cannot be found are left out."""
        ...


@runtime_checkable
class TellsUsage(Protocol):
    """What is left out before any sample is drawn is told by ``core.check``, the run's log and its result, and named in
    ``bad_samples.jsonl``."""

    def usage(self) -> Sequence[Usage]:
        """One for each source; a wrapper gives those of what is inside it."""
        ...


@runtime_checkable
class KnowsItsFiles(Protocol):
    """The files that describe its samples are known. A run keeps a stamp of them, so that other data at the same path are noticed."""

    def its_files(self) -> Sequence[Path]:
        """Annotation files and tables, in an order that does not depend on where they lie; pictures need not be among them.

        Of thousands, some hundreds that are spread over all.
        """
        ...


@runtime_checkable
class Draws(Protocol):
    """A data set that draws: an augmentation, a second view. Training then asks ``draw`` instead of ``[index]``."""

    def draw(self, index: int, generator: np.random.Generator) -> Region:
        """The generator is made of (seed, epoch, source, index) alone: the same for any number of processes, and after a resume."""
        ...


def draw_from(dataset: Dataset, index: int, generator: np.random.Generator) -> Region:
    """The sample that training sees; for wrappers too, so that what is inside them draws. Raises what the data set raises."""
    return dataset.draw(index, generator) if isinstance(dataset, Draws) else dataset[index]


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


@runtime_checkable
class TellsLeftOut(Protocol):
    """A model that may be read from a training file, of which it does not take everything."""

    def left_out(self) -> Mapping[str, Sequence[str]]:
        """Group -> tensors of the file that were not taken though they are not the base's; empty where there are none."""
        ...


# ---------------------------------------------------------------------------------------------- models, before they are built


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
        ``seg``: (status, sentence) on whether the [SEG] token can be emitted, and learned.
        """
        ...


@runtime_checkable
class ReadsFiles(Protocol):
    """Of the component itself (see ``offers``): the files that ``core.evaluate`` and ``core.convert`` may hand to it."""

    def reads(self, path: Path, base: Path | None) -> Mapping[str, Path] | None:
        """The component's keys for ``path``, and for ``base``, which a file of trained tensors needs; None: not mine.

        Raises ``UserError`` for what it knows and cannot read: its sentence says what that is and what to do.
        """
        ...


@runtime_checkable
class ChecksKeys(Protocol):
    """Of the component itself (see ``offers``): what can be said of its keys before it is built, for ``core.run --check``."""

    def check_keys(self, **given: Any) -> None:
        """Takes the component's keys of the recipe; quick, and called only where the paths among them exist.

        Raises ``UserError`` for keys that do not go together and for a folder that is not what it should be.
        """
        ...


@dataclass(frozen=True)
class Recognized:
    """A guess at what a folder or file is."""

    sure: float  # 0 to 1; the surest of all data sets' guesses is taken
    what: str  # in words, with a name that was found: "COCO annotations in a.json"
    keys: Mapping[str, Any]  # the component's keys of a recipe that read it


@runtime_checkable
class Recognizes(Protocol):
    """Of the component itself (see ``offers``): what of one's own data it could read, for ``core.check --data``."""

    def recognizes(self, path: Path) -> Sequence[Recognized]:
        """Its guesses at a folder or file, from names and little of what is in them; none: not mine."""
        ...


# ---------------------------------------------------------------------------------------------- loops


@runtime_checkable
class NeedsSomething(Protocol):
    """Of the component itself: a class attribute, read before anything is built. See ``Loop.needs``."""

    needs: frozenset[str]


@runtime_checkable
class TakesEmptyMasks(Protocol):
    """With ``empty_masks = True`` a region whose mask is empty is a sample of the loop; otherwise it is a bad one."""

    empty_masks: bool


@runtime_checkable
class WithinBatch(Protocol):
    """With ``within_batch = True`` a loop compares the regions of a micro-batch with each other, as a contrastive loss does.

    Its terms are then not sums over regions alone: the result depends on how many a micro-batch holds, and ``core.check`` says so.
    """

    within_batch: bool


@runtime_checkable
class TellsForwards(Protocol):
    """Of the component itself, class attributes: what a loop's memory depends on. Without them it is taken for one that
    describes and segments regions of one picture each."""

    forwards: tuple[str, ...]  # the methods of ``Model`` that it calls with gradient before one backward pass, in their order
    views: int  # pictures of a region that the model encodes: 2 where a second view takes part


@runtime_checkable
class ShowsSamples(Protocol):
    def samples(self, model: Model, teacher: Teacher | None, batch: RegionBatch, noise: Noise) -> list[Sample]:
        """What the loop makes of the regions of a batch, for people to look at. Called inside ``model.computing(training=False)``."""
        ...


# ---------------------------------------------------------------------------------------------- training


@runtime_checkable
class WritesCaptions(Protocol):
    """A teacher that is more than other values of the student's weights, such as another model."""

    def captions(self, model: Model, vision: Any, batch: RegionBatch, length: int) -> Tokens:
        """The first views' regions described in the student's tokens, as ``Model.generate`` does; ``vision``: the student's features."""
        ...


@runtime_checkable
class PreparesItsOwn(Protocol):
    """A teacher with a preparation of its own: each region is prepared by it too, and comes as ``RegionBatch.for_teacher``."""

    preparation: Preparation


@runtime_checkable
class ElementWise(Protocol):
    """A gradient op whose update is no weighted sum. ``weights`` then gives the sum that the log compares with."""

    def combine(self, gradients: Tensor, scales: Tensor, generator: torch.Generator) -> Tensor:
        """[n, m] float32, m numbers of each loop's whole gradient, and [n] float64 -> [m], the update's; each number by itself.

        Called for one part of the parameters after another. ``generator``: on the gradients' device, the same on all ranks.
        """
        ...


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


@runtime_checkable
class NamesGroups(Protocol):
    """An optimizer whose keys may name parameter groups."""

    def check_groups(self, groups: Sequence[str]) -> None:
        """Raises ``UserError`` where it names a group that is not among ``groups``; needs no weights."""
        ...


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


@runtime_checkable
class ShowsTrainingSamples(Protocol):
    def training_samples(self, update: int, name: str, samples: Sequence[Sample]) -> None:
        """What the loops made of some regions (``train.samples_every``), for a tracker that shows texts and masks as a table."""
        ...


#: kind -> what a component of it may offer. Those of ``BEFORE_BUILDING`` are looked for on the component itself, not on what it builds.
OPTIONAL: dict[str, tuple[type, ...]] = {
    "datasets": (GroupsByPicture, KnowsCocoPictures, KnowsPictures, TellsUsage, KnowsItsFiles, Draws, ChecksKeys, Recognizes),
    "models": (
        ReportsChanges,
        VerifiesExport,
        ExportsAdapters,
        ExportsTrainingFile,
        KnowsBaseValues,
        TellsLeftOut,
        TellsFacts,
        ReadsFiles,
        ChecksKeys,
    ),
    "loops": (TakesEmptyMasks, WithinBatch, TellsForwards, ShowsSamples),
    "teachers": (ReportsStatistics, WritesCaptions, PreparesItsOwn),
    "optimizers": (NamesGroups,),
    "gradient_ops": (PerParameter, Stateful, ElementWise),
    "schedules": (KeepsRunningGradient,),
    "evaluators": (ShowsPictures, WholeMetrics),
    "trackers": (InBackground, ShowsPanels, ShowsTrainingSamples),
}
BEFORE_BUILDING: tuple[type, ...] = (TellsFacts, ReadsFiles, ChecksKeys, Recognizes)

Function = TypeVar("Function", bound=Callable[..., Any])


def offers(**functions: Callable[..., Any]) -> Callable[[Function], Function]:
    """Declares what a component that is a function offers before it has built anything: ``@offers(facts=..., reads=...)``."""

    def declare(component: Function) -> Function:
        for name, function in functions.items():
            setattr(component, name, function)
        return component

    return declare
