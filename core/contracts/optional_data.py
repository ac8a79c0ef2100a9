"""What a data set may offer beyond its contract; see ``core.contracts.optional``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

    from core.contracts.kinds import Dataset
    from core.contracts.travel import Region
    from core.contracts.usage import StoredPicture, Usage


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
