"""Going on in a run's folder: what may differ from its recipe then, when it is finished already, and training it longer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.checkpoints.made_of import component_differences, describe, dotted, load_made_of
from core.contracts import UserError
from core.engine import checkpoint
from core.engine.evaluation import write_whole
from core.recipe import KeyPath, Recipe, default_values, local_files, path_text, paths_in, resolved_values, resolved_yaml
from core.recipe.faults import Origin
from core.registry import Registry, is_local

#: What may differ between a run and its resumption without making it another experiment.
FREE_ON_RESUME = (
    "track",
    "checkpoint",
    "output",
    "launch",
    "evaluate",
    "train.workers",
    "train.prefetch_gib",
    "train.activation_checkpointing",
    "train.compile",
    "train.evaluate",
    "train.evaluate_every",
    "train.patience",
    "train.samples_every",
    "train.samples",
    "train.max_bad_fraction",
    "train.max_bad_updates",
    "train.batch_size",
    "train.accumulate",
)
_NOTHING = "-- no default --"
RESULTS = ("result.json", "result.md", "pictures_after.png")  # what a finished run says of its end


@dataclass
class Continued:
    """How a recipe goes on in a run's folder: defaults of then that it takes over, by key path, and sentences for the user."""

    taken_over: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def require_same_recipe(folder: Path, recipe: Recipe, registry: Registry) -> Continued:
    """What the run in ``folder`` and ``recipe`` have in common must be the same, but for more updates; raises ``UserError`` otherwise.

    A key that was not there when the run was made counts as its default; where a default has changed since, that of then is taken over.
    Paths may differ: what lies there is compared elsewhere.
    """
    compared = _Compared(folder, recipe, registry)
    if different := compared.different():
        shorter = " (a run can become longer, not shorter)" if compared.shorter_only() else ""
        raise UserError(
            f"{folder} was made by another recipe: {', '.join(different[:5])}{shorter}; --resume {folder} alone goes on with its own "
            f"recipe, train.updates=N trains it longer, and a new run of another recipe can begin with its weights: start_from={folder}"
        )
    if (was := _global_batch(compared.then)) != (asked := _global_batch(compared.now)):
        raise UserError(
            f"{folder} was made with {was} samples per update and loop, this asks for {asked}; choose train.batch_size x "
            f"train.accumulate x launch.processes = {was}: which samples come next depends on it"
        )
    return compared.continued


class _Compared:
    """The leaves of both recipes, side by side."""

    def __init__(self, folder: Path, recipe: Recipe, registry: Registry) -> None:
        self.recipe = recipe
        try:
            self.then = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{folder / 'recipe.json'}: cannot be read ({error}); it says what the run was made with: restore it") from None
        self.now = json.loads(json.dumps(resolved_values(recipe, registry), default=str))
        self.old, self.new = dict(_leaves(self.then)), dict(_leaves(self.now))
        self.made_of = load_made_of(folder)
        self.defaults: dict[KeyPath, Any] = default_values(recipe, registry)
        paths = {dotted(path) for path in paths_in(recipe, registry)} | self.made_of.get("paths", {}).keys()
        self.paths = {_whole(path) for path in paths} - {"start_from"}
        self.continued = Continued()
        self.keys: list[KeyPath] = []  # that differ
        self.components: list[str] = []
        if self.made_of:
            self.components, newer = component_differences(self.made_of, describe(recipe, registry))
            if newer:
                some = ", ".join(newer[:3]) + (", ..." if len(newer) > 3 else "")
                self.continued.notes.append(f"note: the code of {len(newer)} components is not that of the run's beginning ({some})")

    def different(self) -> list[str]:
        """What differs, each as "KEY was X, is Y"."""
        for key in sorted(self.old.keys() | self.new.keys(), key=path_text):
            if not _free(key) and dotted(key) not in self.paths and not self._same(key):
                self.keys.append(key)
        shown = [f"{path_text(key)} was {self._shown(self.old, key)}, is {self._shown(self.new, key)}" for key in self.keys]
        named = {f"{path_text(key[:-1])} was" for key in self.keys if key[-1] == "use"}
        return [*shown, *(line for line in self.components if not line.startswith(tuple(named)))]

    def shorter_only(self) -> bool:
        return self.keys == [("train", "updates")] and not self.components

    def _shown(self, side: Mapping[KeyPath, Any], key: KeyPath) -> str:
        if key in side:
            return repr(side[key])
        return f"not given (its default is {self.defaults[key]!r})" if key in self.defaults else "not given"

    def _same(self, key: KeyPath) -> bool:
        if key in self.old and key in self.new:
            old, new = (_plain(key, side[key]) for side in (self.old, self.new))
            if old == new or (key == ("train", "updates") and new > old):
                return True
            if path_text(key) in self.made_of.get("defaults", {}) and not self.recipe.given(key):
                self.continued.taken_over[dotted(key)] = self.old[key]
                said = f"note: {path_text(key)} stays {self.old[key]!r}, its default when the run was made; it is {self.new[key]!r} now"
                self.continued.notes.append(said)
                return True
            return False
        if key in self.new:  # it is younger than the run, or an optional one
            default = json.loads(json.dumps(self.defaults.get(key, _NOTHING), default=str))
            return not self.recipe.given(key) or self.new[key] == default
        return False


def _whole(key: str) -> str:
    """The key of the list for a path in a list: a list is one value."""
    parts = key.split(".")
    return ".".join(parts[: next((n for n, part in enumerate(parts) if part.isdigit()), len(parts))])


def take_over(recipe: Recipe, values: Mapping[str, Any], folder: Path) -> None:
    """Sets the defaults of then that ``require_same_recipe`` found, by key path as the command line gives it."""
    for key, value in values.items():
        recipe.give(tuple(int(part) if part.isdigit() else part for part in key.split(".")), value, Origin(f"{folder / 'recipe.yaml'}"))


def _free(key: KeyPath) -> bool:
    text = dotted(key)
    return text.startswith(("data.", "base")) or any(text == free or text.startswith(free + ".") for free in FREE_ON_RESUME)


def finished(folder: Path, updates: int) -> str | None:
    """A sentence where the run in ``folder`` has done its ``updates`` and written its result: there is nothing to go on with."""
    done = _done(folder)
    if done < updates or not (folder / "result.json").is_file():
        return None
    return f"{folder}: finished already, {done} of {updates} updates; train.updates=N with a larger N trains it longer"


def go_on_with(folder: Path, recipe: Recipe, registry: Registry) -> str | None:
    """Makes ``recipe`` the one of the run in ``folder``, so that the folder names what trains; a sentence if it asks for more updates.

    The recipe of before is kept in ``until-update-000120/`` (the updates done by then), and the result that was reached with it, where
    there are more updates now. Killed in between, the run is still whole, with one recipe or the other.
    """
    then = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    if then == json.loads(json.dumps(resolved_values(recipe, registry), default=str)):
        return None
    before, updates, done = then["train"]["updates"], recipe.values["train"]["updates"], _done(folder)
    kept = folder / f"until-update-{done:06d}"
    if done:
        kept.mkdir(exist_ok=True)
        if not (kept / "recipe.yaml").is_file():
            shutil.copyfile(folder / "recipe.yaml", kept / "recipe.yaml")
    for name in RESULTS if done and updates != before else ():
        if (folder / name).is_file():
            (folder / name).replace(kept / name)
    write_recipe(folder, recipe, registry)
    if updates == before:
        return None
    return f"longer: {updates} updates instead of {before}, {done} are done; the learning rate goes on as in a run of {updates}"


def write_recipe(folder: Path, recipe: Recipe, registry: Registry) -> None:
    """The resolved recipe in a run's folder with the local files that it names; the folder counts as a run once it has ``recipe.json``."""
    for file in local_files(recipe):
        if file.resolve() != (folder / file.name).resolve():
            shutil.copyfile(file, folder / file.name)
    write_whole(folder / "recipe.yaml", resolved_yaml(recipe, registry, beside=True))
    write_whole(folder / "recipe.json", json.dumps(resolved_values(recipe, registry), indent=2, default=str) + "\n")


def _done(folder: Path) -> int:
    """Updates that the newest checkpoint holds."""
    found = checkpoint.list_checkpoints(folder / "checkpoints")
    return found[-1][0] if found else 0


def _leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    else:
        yield path, value


def _plain(key: KeyPath, value: Any) -> Any:
    """A component by its name alone: a run folder's own recipe names the copy of a local file that lies in the folder."""
    if key[-1] != "use" or not isinstance(value, str):
        return value
    place, _, name = value.rpartition(":")
    return (Path(place).name, name) if is_local(value) else value.rpartition("/")[2]


def _global_batch(values: Mapping[str, Any]) -> int:
    batch: int = values["train"]["batch_size"] * values["train"]["accumulate"] * values["launch"]["processes"]
    return batch
