"""Where each cell of an experiment stands: not begun, stopped, trained, evaluated; or made by another recipe than the file's now."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.checkpoints.made_of import base_contents, dotted, load_made_of, require_same_base
from core.contracts import UserError
from core.engine.evaluation import write_whole
from core.engine.going_on import require_same_recipe
from core.engine.which_run import read, runs_of
from core.experiments.definition import Cell, Experiment, entry_name
from core.experiments.stamps import Stamps
from core.recipe import Recipe, paths_in
from core.registry import Registry

KEPT = "experiment.json"  # in a run's folder, or that of the untrained model: what it was made with, and what was asked of it
RESULT, CARD = "result.json", "card.json"


@dataclass
class Standing:
    """``run``: its folder; None where it has not begun. ``changed``: a sentence, where the run is of another recipe or base."""

    cell: Cell
    run: Path | None = None
    trained: bool = False
    changed: str = ""
    missing: list[tuple[str, str]] = field(default_factory=list)  # (group, evaluator) that are to be measured
    other: bool = False  # among the missing ones are such that were measured with another definition

    @property
    def done(self) -> bool:
        return self.trained and not self.missing and not self.changed

    def said(self) -> str:
        """In a word or two."""
        if self.changed:
            return "changed"
        if not self.trained:
            return "stopped" if self.run else "missing"
        return "done" if not self.missing else "not evaluated"


class Looking:
    """Looks at the cells of an experiment whose recipes are ``found``."""

    def __init__(self, experiment: Experiment, found: Mapping[Cell, Recipe], registry: Registry) -> None:
        self.experiment, self.found, self.registry = experiment, found, registry
        self.stamps = Stamps(experiment, found, registry)

    def at(self, cell: Cell, chosen: Collection[tuple[str, str]] = ()) -> Standing:
        """``chosen``: (case, variant) that val has chosen: of the others among which it chooses nothing is evaluated on test."""
        standing = Standing(cell)
        place = self.experiment.place(cell)
        if cell.seed is None:
            standing.run, standing.trained = place, True
            if (kept := read(place / KEPT)) and kept.get("definition") != self.stamps.definition(cell):
                standing.other = True
        else:
            runs = runs_of(place, cell.variant)
            standing.run = next((run for run in reversed(runs) if (run / RESULT).is_file()), runs[-1] if runs else None)
            if standing.run is None:
                return self._with_missing(standing, chosen)
            standing.trained = (standing.run / RESULT).is_file()
            standing.changed = self._changed(standing.run, cell)
            if standing.changed and not standing.trained and not any((standing.run / "checkpoints").glob("update-*")):
                standing.run, standing.changed = None, ""  # it failed before it had trained anything: there is nothing to lose
        return self._with_missing(standing, chosen)

    def _changed(self, run: Path, cell: Cell) -> str:
        kept, now = read(run / KEPT), self.stamps.definition(cell)
        if kept.get("definition") == now:
            return ""
        recipe = self.found[cell]
        try:
            require_same_recipe(run, recipe, self.registry)
            then = load_made_of(run)
            require_same_base(run, then, base_contents(recipe, self.registry, then.get("contents", {})))
        except UserError as error:
            return _short(str(error), run)
        old = read(run / "recipe.json").get("train", {}).get("updates")
        if old != recipe.values["train"]["updates"]:
            return f"train.updates was {old}, is {recipe.values['train']['updates']}"
        if moved := _other_paths(then.get("paths", {}), recipe, self.registry):
            return moved
        keep(run, {"definition": now})  # written otherwise, and the same
        return ""

    def _with_missing(self, standing: Standing, chosen: Collection[tuple[str, str]]) -> Standing:
        cell, choice = standing.cell, self.experiment.chosen_from(standing.cell.variant)
        groups = ("val",) if choice and (cell.case, cell.variant) not in chosen else ("val", "test")
        asked = read(standing.run / KEPT).get("asked", {}) if standing.run else {}
        stale = standing.other  # of an untrained model everything, where its recipe or base is another one now
        for group in groups:
            for name in self.experiment.evaluate[group]:
                now, entry = self.stamps.evaluation(cell, group, name), entry_name(group, name)
                measured = standing.run and standing.trained and (cards_folder(standing.run) / entry / CARD).is_file()
                if not measured or stale or asked.get(entry) != now:
                    standing.missing.append((group, name))
                    standing.other = standing.other or (entry in asked and asked[entry] != now)
        return standing


def cards_folder(run: Path) -> Path:
    """Where ``core.evaluate`` writes its cards: of a run's last checkpoint, of an untrained model in its cell's folder."""
    found = sorted((run / "checkpoints").glob("update-[0-9]*"))
    last = [path for path in found if path.name.removeprefix("update-").isdigit()]
    return run / "evaluation" / (last[-1].name if last else "base")


def keep(run: Path, more: Mapping[str, object]) -> None:
    """Adds to what the run's folder keeps for the experiment."""
    run.mkdir(parents=True, exist_ok=True)
    write_whole(run / KEPT, json.dumps({**read(run / KEPT), **more}, indent=1) + "\n")


def _other_paths(then: Mapping[str, Sequence[str]], recipe: Recipe, registry: Registry) -> str:
    """A sentence where a path of what is trained is neither written as then nor the same place."""
    for path, place in paths_in(recipe, registry).items():
        key = dotted(path)
        if path[0] in ("evaluate", "track", "output") or key not in then:
            continue
        written, absolute = then[key]
        if str(place) != written and str(place.absolute()) != absolute:
            return f"{key} was {written}, is {place}"
    return ""


def _short(text: str, run: Path) -> str:
    """What is different, of a sentence of ``require_same_recipe``."""
    return text.removeprefix(f"{run} was made by another recipe: ").removeprefix(f"{run} ").split("; --resume")[0]
