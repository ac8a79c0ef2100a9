"""What ties a run, a result and a printed table to the recipe and the base that they were made with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.checkpoints.made_of import base_contents
from core.experiments.definition import GROUPS, Cell, Experiment
from core.experiments.run_recipes import overrides
from core.recipe import Recipe, local_files
from core.recipe.source import read
from core.registry import Registry, is_local

#: Keys of a recipe that say where something is written and who looks on, not what is trained.
ASIDE = ("output", "name", "seed", "track", "evaluate", "recipe")


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


class Stamps:
    """Digests of an experiment's cells, each made once; ``found``: the checked recipes."""

    def __init__(self, experiment: Experiment, found: Mapping[Cell, Recipe], registry: Registry) -> None:
        self.experiment, self.found, self.registry = experiment, found, registry
        self._bases: dict[str, str] = {}  # paths of the base -> its digest
        self._cells: dict[tuple[str, str], str] = {}

    def definition(self, cell: Cell) -> str:
        """Of what a cell is trained with, but for its seed: the recipe as it is written, code of local files, the base's contents."""
        key = (cell.case, cell.variant)
        if key not in self._cells:
            self._cells[key] = digest([self.recipe(cell), self.base(cell)])
        return self._cells[key]

    def recipe(self, cell: Cell) -> Any:
        """The recipe as it is written, without comments, and what its local files hold."""
        source = read(self.experiment.variants[cell.variant].base, overrides(self.experiment, cell))
        values = {key: _named(value) for key, value in source.values.items() if key not in ASIDE}
        code = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in local_files(self.found[cell])}
        return [values, code]

    def base(self, cell: Cell) -> str:
        """Of the files that the cell's model is built from."""
        recipe = self.found[cell]
        key = json.dumps(recipe.values.get("model"), default=str) + str(recipe.values.get("start_from"))
        if key not in self._bases:
            contents = base_contents(recipe, self.registry, {})
            self._bases[key] = digest({place: _hashes(files) for place, files in contents.items()})
        return self._bases[key]

    def evaluation(self, cell: Cell, group: str, name: str) -> str:
        """Of one evaluator as the file has it, with the recipe's variables that it may refer to."""
        return digest([self.experiment.evaluate[group][name].value, self.found[cell].values.get("data")])

    def whole(self, cells: Sequence[Cell]) -> tuple[str, str]:
        """(of the experiment: all recipes and evaluations, of all bases). What the table shows of it, baseline and metrics, is left out."""
        recipes = {(cell.case, cell.variant): cell for cell in cells}
        experiment = self.experiment
        asked = {group: {name: one.value for name, one in experiment.evaluate[group].items()} for group in GROUPS}
        parts = [str([case, variant, self.recipe(cell)]) for (case, variant), cell in recipes.items()]
        seeds = {name: variant.seeds for name, variant in experiment.variants.items()}
        chosen = [[choice.name, choice.among, choice.by, choice.best] for choice in experiment.choices.values()]
        return (
            digest([parts, asked, seeds, chosen]),
            digest(sorted({self.base(cell) for cell in recipes.values()})),
        )


def _named(value: Any) -> Any:
    """Without the place of local files: what they hold counts."""
    if isinstance(value, Mapping):
        found = {key: _named(inner) for key, inner in value.items()}
        use = found.get("use")
        if isinstance(use, str) and is_local(use):
            place, _, name = use.rpartition(":")
            found["use"] = f"{Path(place).name}:{name}"
        return found
    return [_named(item) for item in value] if isinstance(value, list) else value


def _hashes(files: Mapping[str, Mapping[str, Any]]) -> Any:
    return sorted((name, entry.get("sha256")) for name, entry in files.items())
