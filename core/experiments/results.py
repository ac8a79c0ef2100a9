"""The results of an experiment's cells, as the comparison of runs takes them, and what val chooses."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core.comparison.grouping import Group
from core.comparison.runs import FINISHED, RunData, add_cards
from core.engine.which_run import MADE_OF, read
from core.experiments.definition import Cell, Choice, Experiment, entry_name
from core.experiments.standing import CARD, Looking, Standing, cards_folder


def results_of(standings: Sequence[Standing], experiment: Experiment, group: str) -> dict[Cell, RunData]:
    """What is measured on ``group``, by cell; metrics are called EVALUATOR/METRIC. Changed runs and missing results are left out."""
    found: dict[Cell, RunData] = {}
    for standing in standings:
        run, cell = standing.run, standing.cell
        if run is None or not standing.trained or standing.changed:
            continue
        there = [name for name in experiment.evaluate[group] if (group, name) not in standing.missing]
        cards = {name: cards_folder(run) / entry_name(group, name) / CARD for name in there}
        data = RunData(run, {"seed": cell.seed}, [], {}, FINISHED)
        add_cards(data, [file for file in cards.values() if file.is_file()])
        data.after = {_plain(name, group): value for name, value in data.after.items() if ":" not in name.partition("/")[0]}
        data.evaluators = {_plain(name, group): use for name, use in data.evaluators.items()}
        data.draws = {}  # of one seed there is no interval: one over pictures would say nothing about another seed
        if data.after:
            found[cell] = data
    return found


def _plain(name: str, group: str) -> str:
    return name.removeprefix(f"{group}-")


@dataclass
class Chosen:
    """``variant``: the one with the best mean on val; None while a result is missing. ``means``: of each, over cases and seeds."""

    choice: Choice
    variant: str | None
    means: dict[str, float]


def choices(experiment: Experiment, case: str, val: Mapping[Cell, RunData], cells: Sequence[Cell]) -> list[Chosen]:
    """What val chooses in a case; nothing is chosen before all results are there."""
    found = []
    for choice in experiment.choices.values():
        means: dict[str, float] = {}
        for variant in choice.among:
            own = [cell for cell in cells if cell.case == case and cell.variant == variant]
            values = [val[cell].after[choice.by].value for cell in own if cell in val and choice.by in val[cell].after]
            if own and len(values) == len(own):
                means[variant] = statistics.fmean(values)
        best = (max if choice.best == "highest" else min)(means, key=lambda name: means[name], default=None)
        found.append(Chosen(choice, best if len(means) == len(choice.among) else None, means))
    return found


def chosen_variants(experiment: Experiment, looking: Looking, cells: Sequence[Cell]) -> set[tuple[str, str]]:
    """(case, variant) that val chooses, of those ``cells`` that are part of a choice."""
    members = [cell for cell in cells if experiment.chosen_from(cell.variant)]
    val = results_of([looking.at(cell) for cell in members], experiment, "val")
    found = [(case, one.variant) for case in experiment.cases for one in choices(experiment, case, val, members)]
    return {(case, variant) for case, variant in found if variant is not None}


@dataclass
class Rows:
    """One case's rows: ``runs`` with the places of each row's in ``groups``; ``planned``: how many runs each row has in all."""

    runs: list[RunData]
    groups: list[Group]
    planned: list[int]
    untrained: list[bool]
    baseline: int


def rows(
    experiment: Experiment,
    case: str,
    results: Mapping[Cell, RunData],
    cells: Sequence[Cell],
    chosen: Sequence[Chosen],
    apart: bool = False,
) -> Rows:
    """A row for each variant. A choice has one row, with the results of the variant that val has chosen; ``apart``: its variants have
    rows of their own instead. The untrained model stands beside each seed of the others: its difference to them has their spread."""
    seeds = list(dict.fromkeys(cell.seed for cell in cells if cell.seed is not None))
    found = Rows([], [], [], [], -1)
    parts = {name: choice for choice in experiment.choices.values() for name in choice.among}
    by_choice = {one.choice.name: one for one in chosen}
    order: dict[str, str] = {}  # the row's label -> variant
    for name in experiment.variants:
        choice = None if apart else parts.get(name)
        if choice is None:
            order[name] = name
        elif choice.name not in order and not any(label.startswith(f"{choice.name} (") for label in order):
            one = by_choice.get(choice.name)
            order[f"{choice.name} ({one.variant}, chosen on val)" if one and one.variant else f"{choice.name} (not chosen yet)"] = (
                one.variant if one and one.variant else ""
            )
    for label, variant in order.items():
        own = [cell for cell in cells if cell.case == case and cell.variant == variant]
        untrained = bool(variant) and experiment.variants[variant].untrained
        members: list[int] = []
        for cell in own:
            if cell in results:
                data = results[cell]
                copies = [replace(data, recipe={"seed": seed}) for seed in seeds] if untrained else [data]
                members += range(len(found.runs), len(found.runs) + len(copies))
                found.runs += copies
        if experiment.baseline == variant or label.startswith(f"{experiment.baseline} ("):
            found.baseline = len(found.groups)
        found.groups.append(Group(label, list(members)))
        found.planned.append(len(own))
        found.untrained.append(untrained)
    return found


def commits(standings: Sequence[Standing]) -> list[str]:
    """Of the toolkit, that the runs were made with."""
    made: list[Any] = [read(one.run / MADE_OF).get("commit") for one in standings if one.run and one.trained and one.cell.seed is not None]
    return sorted({str(commit) for commit in made if commit})


def other_data(standings: Sequence[Standing]) -> list[str]:
    """A sentence for each place whose describing files two runs recorded differently: it was made anew between them."""
    known: dict[tuple[str, str, str], tuple[str, Cell]] = {}  # by the source's key, too: several splits may lie in one place
    found: dict[str, str] = {}
    for standing in standings:
        made_of = read(standing.run / MADE_OF) if standing.run and standing.trained and not standing.changed else {}
        places = {key: str(place[-1]) for key, place in made_of.get("paths", {}).items()}
        for source, stamp in made_of.get("sources", {}).items():
            place = next((where for key, where in places.items() if key.startswith(f"{source}.")), "")
            for name, entry in stamp.get("files", {}).items():
                told = (str(entry.get("sha256")), standing.cell)
                first = known.setdefault((place, source, name.rpartition("/")[2]), told)
                if first[0] != told[0]:
                    found[place] = f"{place} held other data for {told[1]} than for {first[1]}: these runs do not belong together"
    return list(found.values())
