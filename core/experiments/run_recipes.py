"""The recipes of an experiment's runs, checked before anything is started; what is wrong is told where the experiment's file has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from core.contracts import UserError
from core.experiments.definition import GROUPS, Cell, Experiment
from core.recipe import Fault, Recipe, check, load, path_report
from core.recipe.faults import COMMAND_LINE
from core.recipe.missing import missing_paths
from core.recipe.source import read
from core.registry import Registry


def recipe_of(experiment: Experiment, cell: Cell) -> Recipe:
    """The recipe of a cell's run."""
    return load(experiment.variants[cell.variant].base, overrides(experiment, cell))


def overrides(experiment: Experiment, cell: Cell) -> list[str]:
    """What is laid over the variant's base; the experiment's evaluators stand there instead of the recipe's own."""
    base = read(experiment.variants[cell.variant].base).values.get("evaluate")
    evaluators = [str(setting) for group in GROUPS for setting in experiment.evaluate[group].values()]
    seed = [] if cell.seed is None else [f"seed={cell.seed}"]
    return [
        *map(str, experiment.settings(cell)),
        *(f"evaluate.{name}=null" for name in (base if isinstance(base, dict) else {})),
        *evaluators,
        *seed,
        f"name={cell.variant}",
        f"output={experiment.place(cell)}",
        "train.evaluate=none",
    ]


def recipes(experiment: Experiment, cells: Sequence[Cell], registry: Registry) -> dict[Cell, Recipe]:
    """The checked recipe of each cell. Raises ``UserError`` with the faults of all, each where the experiment's file has it."""
    found: dict[Cell, Recipe] = {}
    faults: dict[str, None] = {}
    looked: dict[tuple[str, str], Recipe] = {}
    for cell in cells:
        recipe = looked.get((cell.case, cell.variant))
        if recipe is None:
            recipe = looked[cell.case, cell.variant] = recipe_of(experiment, cell)
            for fault in check(recipe, registry):
                faults[f"{_located(fault, experiment, cell)} (variant {cell.variant}{', case ' + cell.case if cell.case else ''})"] = None
        found[cell] = recipe
    if faults:
        raise UserError(
            "\n".join([*faults, f"{len(faults)} fault{'s' * (len(faults) > 1)} in {experiment.file}; nothing has been started"])
        )
    return found


def _located(fault: Fault, experiment: Experiment, cell: Cell) -> Fault:
    """A fault of the command line, where the experiment's file says it."""
    if fault.origin != COMMAND_LINE:
        return fault
    text = ".".join(map(str, fault.path))
    known = [*experiment.settings(cell), *(one for group in GROUPS for one in experiment.evaluate[group].values())]
    around = [one for one in known if text == one.key or text.startswith(one.key + ".") or one.key.startswith(text + ".")]
    return replace(fault, origin=around[-1].origin) if around and text else fault


def require_paths(experiment: Experiment, found: dict[Cell, Recipe], registry: Registry) -> None:
    """Raises ``UserError`` where data or a base that the runs read are not there, with the commands that make them."""
    lines: dict[str, None] = {}
    for recipe in {id(recipe): recipe for recipe in found.values()}.values():
        report = [entry for entry in path_report(recipe, registry) if not entry[0].startswith(("track.", "output"))]
        lines |= dict.fromkeys(missing_paths(recipe, registry, report))
    if lines:
        made = [f"{experiment.file} says how to make what is missing: {command}" for command in experiment.prepare]
        raise UserError("\n".join([*lines, *made]))
