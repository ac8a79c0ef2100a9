"""An experiment as its file says it: variants of a recipe, cases, seeds, what is evaluated on val and on test, what is chosen on val."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from core.recipe.faults import Origin
from core.registry import is_local, local_path

GROUPS = ("val", "test")  # choices are made on the first, the report is on the second


@dataclass(frozen=True)
class Setting:
    """One key of a recipe with its value, as the command line has them."""

    key: str
    value: str
    origin: Origin

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


@dataclass(frozen=True)
class Variant:
    """A recipe with settings. ``untrained``: its model as it is, evaluated once."""

    name: str
    base: Path
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]  # empty where it is untrained
    untrained: bool = False
    about: str = ""


@dataclass(frozen=True)
class Choice:
    """The variant among some whose mean of a metric over the seeds is best on val; only it is evaluated on test."""

    name: str
    among: tuple[str, ...]
    by: str  # EVALUATOR/METRIC of val
    best: Literal["highest", "lowest"] = "highest"


@dataclass(frozen=True)
class Cell:
    """One run of the experiment, or the untrained model: ``case`` is empty where the file names none, ``seed`` None if untrained."""

    case: str
    variant: str
    seed: int | None

    @property
    def name(self) -> str:
        """Of its folder."""
        return "-".join([*([self.case] if self.case else []), self.variant, *([] if self.seed is None else [f"seed{self.seed}"])])

    def __str__(self) -> str:
        return ", ".join([*([self.case] if self.case else []), self.variant, *([] if self.seed is None else [f"seed {self.seed}"])])


@dataclass
class Experiment:
    """``evaluate``: val and test -> name -> evaluator as a setting. ``cases``: name -> settings; one empty name where there are none."""

    file: Path
    name: str
    about: str
    baseline: str
    output: Path
    shared: tuple[Setting, ...]
    cases: dict[str, tuple[Setting, ...]]
    variants: dict[str, Variant]
    evaluate: dict[str, dict[str, Setting]]
    choices: dict[str, Choice] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()  # of the report; all where empty
    prepare: tuple[str, ...] = ()  # commands that make the data

    @property
    def folder(self) -> Path:
        """Where its runs and its report lie."""
        return self.output / self.name

    def cells(self) -> list[Cell]:
        """All of them: one seed of every variant first, so that a first table comes early."""
        seeds = list(dict.fromkeys(seed for variant in self.variants.values() for seed in variant.seeds))
        untrained = [Cell(case, name, None) for case in self.cases for name, variant in self.variants.items() if variant.untrained]
        trained = [
            Cell(case, name, seed)
            for seed in seeds
            for case in self.cases
            for name, variant in self.variants.items()
            if seed in variant.seeds
        ]
        return [*untrained, *trained]

    def settings(self, cell: Cell) -> list[Setting]:
        """What is laid over the variant's base, in this order; the last one of a key counts."""
        return [*self.shared, *self.cases[cell.case], *self.variants[cell.variant].settings]

    def place(self, cell: Cell) -> Path:
        return self.folder / cell.name

    def chosen_from(self, variant: str) -> Choice | None:
        """The choice that the variant is a part of."""
        return next((choice for choice in self.choices.values() if variant in choice.among), None)


def entry_name(group: str, evaluator: str) -> str:
    """An evaluator's name in runs and on result cards: ``test-referring``."""
    return f"{group}-{evaluator}"


def written(value: Any, folder: Path) -> str:
    """A value as the command line takes it; ``use: ./file.py:Object`` is meant from ``folder``, where the experiment's file lies."""
    text = yaml.safe_dump([_placed(value, folder)], default_flow_style=True, width=math.inf, allow_unicode=True)
    return text.strip()[1:-1]


def _placed(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_placed(item, folder) for item in value]
    if not isinstance(value, Mapping):
        return value
    found = {key: _placed(item, folder) for key, item in value.items()}
    return found | {"use": placed_use(found["use"], folder)} if isinstance(found.get("use"), str) else found


def placed_use(use: str, folder: Path) -> str:
    """A local component's file from the current folder where it lies in it, so that the commands are the same for everybody."""
    file = local_path(use, folder) if is_local(use) else None
    if file is None:
        return use
    here = Path.cwd()
    place = f"./{file.relative_to(here).as_posix()}" if file.is_relative_to(here) else str(file)
    return f"{place}:{use.rpartition(':')[2]}"


def wanted(cells: Sequence[Cell], variants: Sequence[str], seeds: Sequence[int], cases: Sequence[str]) -> Iterator[Cell]:
    """Those of the named variants, seeds and cases; no names stand for all."""
    for cell in cells:
        if (not variants or cell.variant in variants) and (not cases or cell.case in cases) and (not seeds or cell.seed in seeds):
            yield cell
