"""``python -m core.experiment FILE.yaml``: variants of a recipe x seeds, trained, evaluated and reported; what is done is left."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.commands import evaluate, run
from core.commands.printing import table
from core.contracts import UserError
from core.experiments.block import faults_of_page
from core.experiments.carry_out import Done, carry_out, carry_out_all, changed_sentence, command, put_away
from core.experiments.definition import Cell, Experiment, wanted
from core.experiments.reading import read_experiment
from core.experiments.report import lacking, write_report
from core.experiments.results import chosen_variants, other_data
from core.experiments.run_recipes import recipes, require_paths
from core.experiments.standing import Looking, Standing
from core.installed.starting import spoken
from core.outside import Ending
from core.registry import Registry

WHAT_REMAINS = "what is done is kept, the same command continues from there"

EXAMPLES = """\
The file names a base recipe, variants of it, seeds, and evaluators in two groups: choices are made on val, the report is on test.
What is done is left, what stopped halfway is resumed, what fails is told and does not stop the others. docs/experiments.md says more.

examples:
  python -m core.experiment recipes/experiments/new_look.yaml --dry-run     what is done and what is missing
  python -m core.experiment recipes/experiments/new_look.yaml               run what is missing, evaluate, report
  python -m core.experiment recipes/experiments/new_look.yaml --only labels loop1 --seeds 1
  python -m core.experiment recipes/experiments/new_look.yaml --commands    one shell command for each run, for a scheduler
  python -m core.experiment recipes/experiments/new_look.yaml --report      the table and figure of what there is
  python -m core.experiment recipes/experiments/new_look.yaml --check-report docs/evidence.md
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 2 for what the user can put right, a failing run's own."""
    arguments = _parser().parse_args(argv)
    with Ending(WHAT_REMAINS) as ending:
        return _main(arguments)
    return ending.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=spoken("experiment"),
        description="Carry out an experiment: variants of a recipe x seeds, evaluated and compared in one table and one figure.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the experiment, a YAML file")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="say what is done and what is missing, and stop")
    what.add_argument("--commands", action="store_true", help="print a shell command for each run that is not done, and stop")
    what.add_argument("--report", action="store_true", help="write the report of what there is, and run nothing")
    what.add_argument(
        "--check-report", type=Path, metavar="PAGE", help="whether the report in PAGE is of the present file, recipes and base"
    )
    what.add_argument("--cell", metavar="NAME", help="carry out one run in this process, as --commands names it; no report")
    parser.add_argument("--only", nargs="+", default=[], metavar="VARIANT", help="these variants only")
    parser.add_argument("--cases", nargs="+", default=[], metavar="CASE", help="these cases only")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], metavar="N", help="these seeds only (an untrained model has none)")
    again = "runs that the file no longer describes are put into former/ beside them and made anew (default: they are told, nothing starts)"
    parser.add_argument("--again", action="store_true", help=again)
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="where to write the report (default: the experiment's folder)")
    baseline = "compare with this variant instead of the file's, e.g. with the best control"
    parser.add_argument("--baseline", metavar="VARIANT", help=baseline)
    parser.add_argument("--quiet", action="store_true", help="say the result only")
    return parser


def _main(arguments: argparse.Namespace) -> int:
    experiment, registry = _compared_with(read_experiment(arguments.file), arguments.baseline), Registry()
    cells = experiment.cells()
    if arguments.cell:
        return _one(experiment, cells, arguments, registry)
    chosen_cells = _wanted(experiment, cells, arguments)
    looking = Looking(experiment, recipes(experiment, cells, registry), registry)
    if arguments.check_report:
        return _check_page(arguments.check_report, experiment, cells, looking)
    standings = _stand(experiment, cells, looking)
    mine = [one for one in standings if one.cell in chosen_cells]
    if arguments.dry_run:
        return _show(experiment, mine)
    if arguments.report:
        return _report(experiment, standings, looking, arguments)
    if changed := [one for one in mine if one.changed]:
        if not arguments.again or arguments.commands:
            raise UserError("\n".join(map(changed_sentence, changed)))
        for one in changed:
            put_away(experiment, one)
    todo = [one.cell for one in mine if one.changed or not one.done]
    if arguments.commands:
        print("\n".join(command(experiment, cell) for cell in todo), end="\n" if todo else "")
        return 0
    require_paths(experiment, {cell: looking.found[cell] for cell in todo}, registry)
    return _carry_out(experiment, cells, todo, looking, arguments)


def _compared_with(experiment: Experiment, baseline: str | None) -> Experiment:
    """The experiment with another baseline. Raises ``UserError`` for one that has no row."""
    rows = [*(name for name in experiment.variants if not experiment.chosen_from(name)), *experiment.choices]
    if baseline is not None and baseline not in rows:
        raise UserError(f"--baseline {baseline}: {experiment.file} has no such row; there are {', '.join(rows)}")
    return experiment if baseline is None else replace(experiment, baseline=baseline)


def _wanted(experiment: Experiment, cells: Sequence[Cell], arguments: argparse.Namespace) -> list[Cell]:
    """Raises ``UserError`` for a variant, case or seed that the file does not have."""
    known: dict[str, tuple[Sequence[Any], set[Any]]] = {
        "--only": (arguments.only, {cell.variant for cell in cells}),
        "--cases": (arguments.cases, {cell.case for cell in cells}),
        "--seeds": (arguments.seeds, {cell.seed for cell in cells}),
    }
    for option, (asked, there) in known.items():
        if unknown := [one for one in asked if one not in there]:
            shown = ", ".join(str(one) for one in sorted(there - {None, ""}, key=str)) or "none"
            raise UserError(f"{option} {unknown[0]}: {experiment.file} has no such one; there are {shown}")
    return list(wanted(cells, arguments.only, arguments.seeds, arguments.cases))


def _stand(experiment: Experiment, cells: Sequence[Cell], looking: Looking) -> list[Standing]:
    chosen = chosen_variants(experiment, looking, cells)
    return [looking.at(cell, chosen) for cell in cells]


def _one(experiment: Experiment, cells: Sequence[Cell], arguments: argparse.Namespace, registry: Registry) -> int:
    cell = next((cell for cell in cells if cell.name == arguments.cell), None)
    if cell is None:
        raise UserError(f"--cell {arguments.cell}: {experiment.file} has no such run; --commands prints them")
    choice = experiment.chosen_from(cell.variant)
    beside = [one for one in cells if choice and one.variant in choice.among and one.case == cell.case]
    needed = [cell, *(one for one in beside if one != cell)]
    looking = Looking(experiment, recipes(experiment, needed, registry), registry)
    standing = looking.at(cell)
    if standing.changed and arguments.again:
        put_away(experiment, standing)
    require_paths(experiment, {cell: looking.found[cell]}, registry)
    return carry_out(cell, looking, chosen_variants(experiment, looking, beside), run.main, evaluate.main, arguments.quiet)


def _carry_out(experiment: Experiment, cells: Sequence[Cell], todo: Sequence[Cell], looking: Looking, arguments: argparse.Namespace) -> int:
    done = Done()
    say = (lambda line: None) if arguments.quiet else (lambda line: print(line, flush=True))
    left = list(todo)
    while left and not done.stopped:
        carry_out_all(experiment, left, say, done)
        standings = _stand(experiment, cells, looking)  # val may have chosen by now
        left = [one.cell for one in standings if one.cell in todo and not one.done and one.cell not in done.failed]
        left = [cell for cell in left if experiment.chosen_from(cell.variant)]
    for cell, why in done.failed.items():
        print(f"failed: {cell}: {why}", file=sys.stderr)
    if done.stopped:
        print(f"stopped; {WHAT_REMAINS}", file=sys.stderr)
        return done.code
    return _report(experiment, _stand(experiment, cells, looking), looking, arguments) or done.code


def _report(experiment: Experiment, standings: Sequence[Standing], looking: Looking, arguments: argparse.Namespace) -> int:
    page = write_report(experiment, standings, looking.stamps, arguments.output or experiment.folder)
    missing = lacking(standings)
    print(page.read_text(encoding="utf-8") if not arguments.quiet else "", end="")
    print(f"{page}: {len(standings) - len(missing)} of {len(standings)} runs; with report.html, report.svg and val.md beside it")
    wrong = other_data(standings)
    print("".join(f"error: {line}\n" for line in wrong), end="", file=sys.stderr)
    return 1 if wrong else 0


def _show(experiment: Experiment, standings: Sequence[Standing]) -> int:
    rows = [(str(one.cell), one.said(), _evaluations(one), str(one.run or "–")) for one in standings]
    table(("run", "state", "to evaluate", "folder"), rows)
    for one in standings:
        if one.changed:
            print(changed_sentence(one))
    done = sum(one.done for one in standings)
    print(f"{experiment.name}: {done} of {len(standings)} done")
    return 0


def _evaluations(standing: Standing) -> str:
    return ", ".join(f"{group}-{name}" for group, name in standing.missing) or "–"


def _check_page(page: Path, experiment: Experiment, cells: Sequence[Cell], looking: Looking) -> int:
    if faults := faults_of_page(page, experiment, *looking.stamps.whole(cells)):
        raise UserError("\n".join([*faults, f"make it again: {spoken('experiment')} {experiment.file}"]))
    print(f"{page}: the report of {experiment.name} is of the present file, recipes and base")
    return 0
