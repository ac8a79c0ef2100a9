"""A run's folder: made whole or not at all, or found again to go on in, if the recipe is still the same experiment."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from core.checkpoints.made_of import (
    base_contents,
    describe,
    dotted,
    keep_made_of,
    load_made_of,
    require_same_base,
    require_same_data,
    source_stamps,
    version_note,
)
from core.checkpoints.start import fix_start
from core.contracts import ChecksKeys, Dataset, UserError
from core.engine import checkpoint
from core.engine.going_on import finished, require_same_recipe, write_recipe
from core.engine.run_lock import training
from core.engine.which_run import run_named, runs_of
from core.installed.versions import versions
from core.recipe import KeyPath, Recipe, components_used, paths_in
from core.registry import Registry


@dataclass
class Found:
    """The folder in which a run trains, as the main rank found or made it."""

    folder: str
    last: str | None = None  # the checkpoint to continue from
    new: bool = False
    finished: str | None = None  # a sentence: there is nothing to do
    taken_over: dict[str, Any] = field(default_factory=dict)  # defaults that the run was made with, by key path
    notes: list[str] = field(default_factory=list)  # for the user

    def plain(self) -> dict[str, Any]:
        """As JSON carries it to the other ranks."""
        return asdict(self)


def run_folder(recipe: Recipe, registry: Registry, resume: Path | bool | None, held: ExitStack) -> Found:
    """A new folder with the resolved recipe and local plugin files, or that of the run to go on with.

    The folder is locked until ``held`` closes, unless the run is finished. Raises ``UserError`` for a run that another command trains,
    and for another recipe or base than the run's.
    """
    fix_start(recipe)
    parent, name = Path(recipe.values["output"]), recipe.values["name"]
    notes: list[str] = []
    if not resume and recipe.values["launch"]["requeue"]:
        resume, notes = _same_job(parent, name, recipe, registry)
    if not resume:
        return _new(parent, name, recipe, registry, held, notes)
    if isinstance(resume, Path):
        folder = run_named(resume)
    else:
        runs = runs_of(parent, name)
        if not runs:
            raise UserError(f"nothing to resume: {parent} holds no run of the name {name!r}; run without --resume first")
        folder = runs[-1]
    return _again(folder, recipe, registry, held)


def _again(folder: Path, recipe: Recipe, registry: Registry, held: ExitStack) -> Found:
    continued = require_same_recipe(folder, recipe, registry)
    if sentence := finished(folder, recipe.values["train"]["updates"]):
        return Found(str(folder), finished=sentence)
    notes = [held.enter_context(training(folder)), *continued.notes]
    if sentence := finished(folder, recipe.values["train"]["updates"]):  # it came to its end in the meantime
        return Found(str(folder), finished=sentence)
    made_of = load_made_of(folder)
    _require_there(folder, recipe, registry)
    if made_of:
        require_same_base(folder, made_of, base_contents(recipe, registry, made_of["contents"]))
        notes += version_note(folder, made_of)
    found = checkpoint.list_checkpoints(folder / "checkpoints")
    last = str(found[-1][1]) if found else None
    return Found(str(folder), last, taken_over=continued.taken_over, notes=[note for note in notes if note])


def remember(folder: Path, recipe: Recipe, registry: Registry, datasets: Mapping[KeyPath, Dataset], start: int) -> list[str]:
    """Writes what the run is made of into its folder; returns sentences for the user.

    ``datasets``: all that were built, by their place in the recipe; ``start``: updates done. Raises ``UserError`` where the run was made
    of another base or of other data.
    """
    then, now, notes = load_made_of(folder), describe(recipe, registry), []
    now["contents"] = base_contents(recipe, registry, then.get("contents", {}))
    now["sources"] = source_stamps(recipe, registry, datasets, then.get("sources", {}))
    if then:
        require_same_base(folder, then, now["contents"])
        require_same_data(folder, then, now["sources"])
        now |= {
            "begun": then["begun"],
            "versions": then["versions"],
            "commit": then.get("commit"),
            "defaults": now["defaults"] | then["defaults"],
        }
        now["went_on"] = then.get("went_on", []) + ([] if versions() == then["versions"] else [{"update": start, "versions": versions()}])
    elif start:
        now["recorded_at"] = start
        notes.append(f"note: {folder} kept no record of its base and data until now: whether they are those of its beginning is not known")
    keep_made_of(folder, now)
    return notes


def _require_there(folder: Path, recipe: Recipe, registry: Registry) -> None:
    """Raises ``UserError`` where what is trained on, or trained over, is not where the recipe says: it may have been moved."""
    owners = {path: component for path, component in components_used(recipe, registry) if path[0] in ("model", "loops", "teacher")}
    for path, place in paths_in(recipe, registry).items():
        owner = next((owners[path[:n]] for n in range(len(path), 0, -1) if path[:n] in owners), None)
        reads = owner is not None and (owner.entry.kind == "datasets" or isinstance(owner.object, ChecksKeys))  # others may make it
        if reads and not place.exists():
            key = dotted(path)
            raise UserError(
                f"{recipe.origin(path)}: {key}: {place} is not there; where it was moved, name its place: --resume {folder} {key}=PLACE"
            )


def _same_job(parent: Path, name: str, recipe: Recipe, registry: Registry) -> tuple[Path | None, list[str]]:
    """(the run of the same recipe that was begun last, if it is not finished; sentences). This may be its job, started again."""
    notes: list[str] = []
    for run in reversed(runs_of(parent, name)):
        try:
            require_same_recipe(run, recipe, registry)
        except UserError as error:
            if not (run / "result.json").is_file():
                notes.append(f"note: launch.requeue goes on with runs of this recipe only: {error}")
            continue
        return (None if (run / "result.json").is_file() else run), notes[:1]
    return None, notes[:1]


def _new(parent: Path, name: str, recipe: Recipe, registry: Registry, held: ExitStack, notes: list[str]) -> Found:
    str(parent).encode()  # raises for a name that is no text: checkpoints could be written there, but not read
    stamp, folder = time.strftime("%Y%m%d-%H%M%S"), parent
    for attempt in range(1000):
        folder = parent / (f"{name}-{stamp}" + (f"-{attempt}" if attempt else ""))
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:  # two runs in one second
            continue
        except OSError as error:
            raise UserError(f"output: the run folder {folder} cannot be made ({error}); give another folder, output=...") from None
    with removed_on_failure(folder, True):
        notes = [*notes, *filter(None, [held.enter_context(training(folder))])]
        write_recipe(folder, recipe, registry)
    return Found(str(folder), new=True, notes=notes)


@contextmanager
def removed_on_failure(folder: Path, new: bool) -> Iterator[None]:
    """A run that cannot be built leaves no folder behind, in which ``--resume`` would find nothing."""
    try:
        yield
    except BaseException:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
