"""What a component may offer beyond its kind's contract. The engine asks with ``isinstance``, never for a name.

Those of data sets and of models have files of their own, ``optional_data`` and ``optional_models``; the others stand here.
``OPTIONAL`` lists the offers of each kind: ``components explain`` shows them, ``components doctor`` and the kits check that
what a component declares is whole and spelt right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from core.contracts.optional_data import (
    Draws,
    GroupsByPicture,
    KnowsCocoPictures,
    KnowsItsFiles,
    KnowsPictures,
    Recognizes,
    TellsUsage,
)
from core.contracts.optional_models import (
    AnswersQuestions,
    ExportsAdapters,
    ExportsTrainingFile,
    FollowsUpstream,
    GivesRegionTokens,
    KnowsBaseValues,
    ReadsFiles,
    ReportsChanges,
    TellsFacts,
    TellsIdentity,
    TellsLeftOut,
    VerifiesExport,
)
from core.contracts.results import Item, Picture, RunInfo, Sample

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from core.contracts.kinds import Teacher
    from core.contracts.model import Model, Noise, Preparation
    from core.contracts.travel import RegionBatch, Tokens


# ---------------------------------------------------------------------------------------------- any component, before it is built


@runtime_checkable
class ChecksKeys(Protocol):
    """Of the component itself (see ``offers``): what can be said of its keys before it is built, for ``core.run --check``."""

    def check_keys(self, **given: Any) -> None:
        """Takes the component's keys of the recipe; quick, and called only where the paths among them exist.

        Raises ``UserError`` for keys that do not go together and for a folder that is not what it should be.
        """
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


@dataclass(frozen=True)
class Outlook:
    """What figures say of a loop. Sentences without a full stop; they are shown after a colon."""

    doubts: Sequence[str]  # each speaks against training with it and says what can be done; none: nothing does
    hope: str = ""  # what it can be expected to do where there is no doubt


@runtime_checkable
class TellsOutlook(Protocol):
    def outlook(self, figures: Mapping[str, float]) -> Outlook:
        """Whether the loop can be expected to help a model. A figure that is not among ``figures`` is not judged.

        ``figures``: means of what the loop logs (``LossTerms.metrics``); a run asks once, after some updates. ``core.check --closure`` asks
        before a run, and adds what it measured of the base: ``own_words``, the mean IoU of the masks that it finds for its teacher's own
        captions; ``singled_out``, the share of these captions that no other region of the picture gets; and of the regions of the recipe
        that have captions, ``given_words`` and ``own_words_of_given``: the mean IoU for these and for the teacher's own.
        """
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
class LowestIsBest(Protocol):
    """Of the component itself: its metrics of which a low value is good; of all its others, but for counts, a high one is.

    ``core.compare`` says which of two results is the better one only where the evaluator has told this.
    """

    lowest_is_best: frozenset[str]


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


@runtime_checkable
class TakesResults(Protocol):
    def add_results(self, run: RunInfo, update: int, values: Mapping[str, float], pictures: Mapping[str, Path]) -> str:
        """What ``core.evaluate --track`` measured of a run's checkpoint after ``update`` updates; ``start`` and ``finish`` are not called.

        ``values``: ``EVALUATOR/METRIC``, and with ``/low`` and ``/high`` the ends of its interval; ``pictures``: files by name.
        ``run.resumed_at`` is the last update that the run has logged; nothing of it goes. Returns where it went, for people to read.
        """
        ...


#: kind -> what a component of it may offer. Those of ``BEFORE_BUILDING`` are looked for on the component itself, not on what it builds.
OPTIONAL: dict[str, tuple[type, ...]] = {
    "datasets": (GroupsByPicture, KnowsCocoPictures, KnowsPictures, TellsUsage, KnowsItsFiles, Draws, ChecksKeys, Recognizes),
    "models": (
        ReportsChanges,
        VerifiesExport,
        ExportsAdapters,
        ExportsTrainingFile,
        GivesRegionTokens,
        KnowsBaseValues,
        TellsLeftOut,
        AnswersQuestions,
        FollowsUpstream,
        TellsFacts,
        TellsIdentity,
        ReadsFiles,
        ChecksKeys,
    ),
    "loops": (TakesEmptyMasks, WithinBatch, TellsForwards, ShowsSamples, TellsOutlook),
    "teachers": (ReportsStatistics, WritesCaptions, PreparesItsOwn),
    "optimizers": (NamesGroups,),
    "gradient_ops": (PerParameter, Stateful, ElementWise),
    "schedules": (KeepsRunningGradient,),
    "evaluators": (ShowsPictures, WholeMetrics, LowestIsBest),
    "trackers": (InBackground, ShowsPanels, ShowsTrainingSamples, TakesResults),
}
BEFORE_BUILDING: tuple[type, ...] = (TellsFacts, TellsIdentity, ReadsFiles, ChecksKeys, Recognizes)

Function = TypeVar("Function", bound=Callable[..., Any])


def offers(**functions: Callable[..., Any]) -> Callable[[Function], Function]:
    """Declares what a component that is a function offers before it has built anything: ``@offers(facts=..., reads=...)``."""

    def declare(component: Function) -> Function:
        for name, function in functions.items():
            setattr(component, name, function)
        return component

    return declare
