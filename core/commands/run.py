"""``python -m core.run RECIPE [key=value ...]``: checks a recipe and runs it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from core.checkpoints.own_recipe import own_recipe
from core.commands.printing import table
from core.commands.words import parse, recipe_and_run
from core.engine.identity import identities
from core.engine.launch import RESUME, become_worker, device_notes, print_notes, report_error, report_stop, start_workers, to_start
from core.engine.launch.stopping import Stopped, listening
from core.engine.processor import slow_bfloat16
from core.engine.rehearsal import cannot_start_here, rehearse
from core.installed.home import home
from core.installed.starting import spoken
from core.outside import Ending
from core.recipe import Fault, Recipe, check, components_used, differing, json_schema, load, path_report, path_text, resolved_yaml
from core.recipe.missing import missing_paths
from core.recipe.schema import RecipeSchema
from core.registry import Registry

EXAMPLES = """examples:
  {run} dual_loop_tiny --check                                   is it right? reads neither model nor data
  {run} mine.yaml train.updates=20 optimizer.lr=1e-4
  {run} --resume runs/NAME                                       goes on where it stopped
  {run} mine.yaml --sweep seed=1,2,3 gradient.use=sum,pcgrad     six runs
  {run} mine.yaml --diff runs/NAME                               where the recipe differs from a run's
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 2 for what the user can put right."""
    parser = _parser()
    argv = sys.argv[1:] if argv is None else argv
    with Ending(RESUME, report_error) as ending:
        arguments = parse(parser, argv, tuple(entry.name for entry in fields(RecipeSchema)))
        become_worker()
        registry = Registry()
        if arguments.schema:
            print(json.dumps(json_schema(registry), indent=2))
            return 0
        arguments.recipe, resume = recipe_and_run(arguments)
        if arguments.diff is not None:
            if resume or arguments.sweep or arguments.check or arguments.resolved:
                parser.error("--diff compares two recipes and stops: it goes with neither --resume, --sweep, --check nor --resolved")
            return _diff(_recipe_of(arguments.recipe, arguments.overrides), _recipe_of(arguments.diff), registry)
        if arguments.profile < 0 or (arguments.profile and (arguments.sweep or arguments.check or arguments.resolved)):
            parser.error(
                "--profile N measures N updates of one run: N is at least 1, and it goes with neither --sweep, --check nor --resolved"
            )
        if arguments.sweep:
            if resume or arguments.resolved:
                parser.error("--sweep starts new runs: it goes with neither --resume nor --resolved")
            from core.commands.sweep import sweep

            return sweep(arguments.recipe, arguments.overrides, arguments.sweep, registry, arguments)
        if arguments.dry_run:
            parser.error("--dry-run goes with --sweep; --check looks at one recipe")
        if isinstance(resume, Path) and Path(arguments.recipe) == resume / "recipe.yaml":
            recipe = own_recipe(resume, arguments.overrides)
        else:
            recipe = load(arguments.recipe, arguments.overrides)
        return _run(recipe, registry, arguments, resume, argv)
    return ending.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=spoken("run"),
        description="Train as a recipe says: its components, their keys, where everything lies.",
        epilog=EXAMPLES.format(run=spoken("run")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "recipe", nargs="?", metavar="RECIPE", help="a YAML file, or the name of a shipped recipe; may be left out with --resume RUN_FOLDER"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="set one key, e.g. train.updates=10 or gradient.use=sum")
    parser.add_argument("--check", action="store_true", help="check everything that needs neither model nor data, and stop")
    elsewhere = "with --check: of a recipe for another machine, whose GPUs are not looked for here"
    parser.add_argument("--elsewhere", action="store_true", help=elsewhere)
    parser.add_argument("--resolved", action="store_true", help="print the merged recipe with the origin of each value, and stop")
    other = "print the keys whose values OTHER, a recipe or a run's folder, has otherwise, with the origin of each value, and stop"
    parser.add_argument("--diff", metavar="OTHER", help=other)
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of recipes for editors, and stop")
    folder = (
        "continue from the last checkpoint: of this run folder, or of the newest run of the recipe; with train.updates=N a run is trained "
        "longer. A new run of another recipe begins with a run's weights: start_from=RUN_FOLDER"
    )
    parser.add_argument("--resume", nargs="?", const=True, default=None, metavar="RUN_FOLDER", help=folder)
    parser.add_argument("--sweep", nargs="+", metavar="key=a,b", help="run every combination of these values, one run after another")
    parser.add_argument("--dry-run", action="store_true", help="with --sweep: print the runs' commands, one a line, and stop")
    profile = "measure N updates after the first: their phases' time, memory and waits, and a trace, in RUN_FOLDER/profile; the run goes on"
    parser.add_argument("--profile", type=int, default=0, metavar="N", help=profile)
    parser.add_argument("--quiet", action="store_true", help="print the result only")
    return parser


def _run(recipe: Recipe, registry: Registry, arguments: argparse.Namespace, resume: Path | bool | None, argv: list[str]) -> int:
    faults = check(recipe, registry)
    if not faults and not arguments.resolved:
        faults = rehearse(recipe, registry, start=not arguments.check)
    if _print_faults(recipe, faults):
        return 2
    print_notes(recipe.notes)
    if arguments.resolved:
        print(resolved_yaml(recipe, registry), end="")
        return 0
    if arguments.check:
        return report(recipe, registry, here=not arguments.elsewhere)
    print_notes(device_notes(recipe.values["launch"]))
    if to_start(recipe.values["launch"]):
        return start_workers(recipe.values["launch"], argv)
    try:
        with listening():
            from core.engine.runner import run  # late: it imports torch

            return run(recipe, registry, resume=resume, quiet=arguments.quiet, profile=arguments.profile)
    except Stopped as stopped:
        return report_stop(stopped, recipe.values["launch"]["requeue"])


def _print_faults(recipe: Recipe, faults: Sequence[Fault]) -> bool:
    """Tells what is wrong with a recipe; whether anything is."""
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        print(f"{len(faults)} fault{'s' if len(faults) > 1 else ''} in {recipe.file}", file=sys.stderr)
    return bool(faults)


def _recipe_of(named: str, overrides: Sequence[str] = ()) -> Recipe:
    """Of a recipe, or of a run's folder the one that it was made with. Raises ``UserError``."""
    folder = home(named)
    return own_recipe(folder, overrides) if (folder / "recipe.json").is_file() else load(named, overrides)


def _diff(one: Recipe, other: Recipe, registry: Registry) -> int:
    """Prints where two recipes differ; returns the exit code: 2 where one has faults."""
    faulty = [_print_faults(recipe, check(recipe, registry)) for recipe in (one, other)]
    if any(faulty):
        return 2
    rows = list(differing(one, other, registry))
    print(f"--- {one.file}\n+++ {other.file}")
    for path, *values in rows:
        print(f"\n{path_text(path)}")
        for sign, value in zip("-+", values, strict=True):
            print(f"  {sign} {value.text}  # {value.origin}" if value is not None else f"  {sign} (no such key)")
    print(f"\n{len(rows)} key{' differs' if len(rows) == 1 else 's differ'}" if rows else "\nno difference: both mean the same run")
    return 0


def report(recipe: Recipe, registry: Registry, here: bool = True) -> int:
    """Prints what a sound recipe would use, and warns of paths that do not exist.

    Returns the exit code: 2 where the run is to start ``here`` and this machine cannot start it.
    """
    used = [(path_text(path), c.entry) for path, c in components_used(recipe, registry)]
    table(("key", "component", "distribution"), [(key, f"{e.kind}/{e.name}", f"{e.distribution} {e.version}".rstrip()) for key, e in used])
    paths = path_report(recipe, registry)
    if any(found for _, _, found, _ in paths):
        print()
        table(("key", "path", "given at"), [(key, str(path), origin) for key, path, found, origin in paths if found])
    for path, text in identities(recipe, registry):
        print(f"\n{path_text(path)}: {text}")
    train, processes = recipe.values["train"], recipe.values["launch"]["processes"]
    size, accumulate = train["batch_size"], train["accumulate"]
    print(f"\nsamples per update and loop: {size * accumulate * processes} = {size} x {accumulate} accumulated x {processes} processes")
    missing = [entry for entry in paths if not entry[2]]
    for line in missing_paths(recipe, registry, paths):
        print(f"warning: {line}", file=sys.stderr)
    if here and (slow := slow_bfloat16(recipe.values)):
        print(f"warning: {slow}", file=sys.stderr)
    unable = list(cannot_start_here(recipe)) if here else []
    for fault in unable:
        print(f"{fault}; for another machine check it with --check --elsewhere", file=sys.stderr)
    placeholders = f" ({len(missing)} of {len(paths)} paths are placeholders that do not exist here)" if missing else ""
    print("recipe OK" + (", but it cannot start here" if unable else "") + placeholders)
    return 2 if unable else 0
