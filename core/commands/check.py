"""``python -m core.check RECIPE [key=value ...]``: looks at everything a run will need, before the run.

Use it first on a new server. It checks paths, data (by drawing samples as the run would), sizes, devices and disk. Weights are loaded
for ``--closure`` alone, which measures how well the base closes the loops. ``--data PATH`` looks at data of one's own that no recipe
names yet. Exit code 0, or 1 if something failed, or 2 for a recipe that is wrong or data that cannot be read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain, repeat
from pathlib import Path

from core.contracts import UserError
from core.engine.launch import print_notes
from core.engine.rehearsal import rehearse
from core.installed.starting import spoken
from core.outside import Ending, sentence
from core.preflight.finding import Finding
from core.recipe import Recipe, check, load
from core.registry import Registry

SECONDS = 40.0  # for drawing samples from all sources together


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog=spoken("check"), description="Look at everything a recipe's run will need.")
    named = "a YAML file, or the name of a shipped recipe; left out with --data"
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help=named)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=f"set one key, as for {spoken('run')}")
    about = "look at this folder or file of data instead of a recipe: what it is, how much of it is used, a page to scroll, a recipe"
    parser.add_argument("--data", type=Path, metavar="PATH", help=about)
    parser.add_argument("--samples", type=int, default=200, metavar="N", help="samples drawn from each source (default 200)")
    seconds = f"for drawing from all sources together (default {SECONDS:g}); fewer samples are drawn where it is not enough"
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help=seconds)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for the picture sheets (default: OUTPUT/check-NAME)")
    closure = "also load the model and measure, on about N regions of each task, how well it closes the loops before any training"
    parser.add_argument("--closure", type=int, metavar="N", help=closure)
    card = "check for a machine whose GPUs have so many GB (24, 48, 80), instead of this one's"
    parser.add_argument("--card", type=float, metavar="GB", help=card)
    parser.add_argument("--all", action="store_true", help="show what is in order, too, not only what is not, --closure and the summary")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.card is not None and not arguments.card > 0:
        parser.error("--card must be above 0")
    if arguments.samples < 1:
        parser.error("--samples must be at least 1")
    if arguments.closure is not None and arguments.closure < 1:
        parser.error("--closure must be at least 1")
    if arguments.closure is not None and arguments.recipe is None:
        parser.error("--closure needs a recipe")
    if arguments.data is not None and arguments.recipe is not None:
        parser.error("give either a recipe or --data PATH")
    if arguments.data is None and arguments.recipe is None:
        parser.error("give a recipe, or --data PATH to look at data of your own")
    with Ending() as ending:
        if arguments.data is not None:
            return _own_data(arguments.data, arguments.samples, arguments.seconds, arguments.out, arguments.json)
        registry, recipe = Registry(), load(arguments.recipe, arguments.overrides)
        if faults := check(recipe, registry) or rehearse(recipe, registry, start=False, files=False):
            print("\n".join(map(str, faults)), file=sys.stderr)
            return 2
        print_notes(recipe.notes)
        out = arguments.out or Path(recipe.values["output"]) / f"check-{recipe.values['name']}"
        findings: list[Finding] = []
        several = [zip(_findings(recipe, registry, arguments.samples, arguments.seconds, out, arguments.card), repeat(arguments.all))]
        if arguments.closure is not None:  # what is asked for is shown, good or bad
            several.append(zip(_closure(recipe, registry, arguments.closure, findings, arguments.json), repeat(True)))
        hidden = 0
        for finding, asked in chain(*several):
            findings.append(finding)
            shown = not arguments.json and (asked or finding.status != "pass")
            hidden += not shown
            _count(0 if shown else len(findings))
            if shown:
                _show(finding)
        _count(0)
        failed = any(finding.status == "fail" for finding in findings)
        if arguments.json:
            print(json.dumps({"ok": not failed, "findings": [asdict(finding) for finding in findings], "sheets": str(out)}, indent=1))
        else:
            counts = {status: sum(finding.status == status for finding in findings) for status in ("pass", "warn", "fail")}
            sheets = f"; picture sheets in {out}" if out.is_dir() else ""
            hint = " (--all shows them)" if hidden else ""
            space = "\n" if hidden < len(findings) else ""
            print(f"{space}{counts['pass']} pass{hint}, {counts['warn']} warn, {counts['fail']} fail{sheets}")
        return int(failed)
    return ending.code


def _own_data(path: Path, samples: int, seconds: float, out: Path | None, as_json: bool) -> int:
    """``--data``: looks at data that no recipe names yet; returns the exit code."""
    from core.preflight.own_data.guesses import guesses  # late: they import numpy and pictures
    from core.preflight.own_data.look import look

    findings, path = [], path.expanduser()
    out = out or Path("runs") / f"data-{path.resolve().name}"
    first, *others = guesses(path, Registry())
    with _sheets(out):
        for finding in look(first, others, samples, seconds, out):
            findings.append(finding)
            if not as_json:
                _show(finding)
    if as_json:
        print(json.dumps({"findings": [asdict(finding) for finding in findings], "folder": str(out)}, indent=1))
    else:
        print(f"\n{(out / 'recipe.yaml').read_text(encoding='utf-8')}")
    return int(any(finding.status == "fail" for finding in findings))


def _findings(recipe: Recipe, registry: Registry, samples: int, seconds: float, out: Path, card: float | None) -> Iterator[Finding]:
    from core.preflight import data, leaks, loops, machine, memory  # late: they import torch

    facts, found = machine.model_facts(recipe, registry)
    paths = list(machine.paths(recipe, registry))
    yield from paths
    yield found
    yield from machine.answers(facts)
    yield from machine.known(recipe, registry)
    teachers = machine.teacher_facts(recipe, registry)
    yield from (found for _, found in teachers)
    sources, built = data.sources(recipe, registry, [path.subject for path in paths if path.status == "fail"])
    yield from built
    with _sheets(out):
        yield from data.draw(recipe, registry, sources, facts, samples, seconds, out)
    yield from leaks.leaks(sources)
    yield from machine.epochs(recipe, sources)
    yield from loops.within_batch(recipe, registry)
    yield from machine.devices(recipe, card)
    theirs = [told for told, _ in teachers if told]
    yield from machine.disk(recipe, facts, theirs)
    yield from memory.on_a_gpu(recipe, registry, facts, theirs, card)
    yield from memory.of_the_host(recipe, registry, facts, card)


def _closure(recipe: Recipe, registry: Registry, regions: int, before: Sequence[Finding], quiet: bool) -> Iterator[Finding]:
    """``--closure``. ``before``: what was found until it is asked for its first finding."""
    if any(finding.status == "fail" for finding in before):
        yield Finding("warn", "closure", "not measured: put right what failed first")
        return
    from core.engine.progress import Progress
    from core.preflight.closure import closure  # late: they import torch

    with Progress(0, quiet) as progress, progress.phase("closing the loops") as callback:
        found = list(closure(recipe, registry, regions, callback))
    yield from found


@contextmanager
def _sheets(out: Path) -> Iterator[None]:
    """The picture sheets are the only files that a check writes; where they cannot be written its option says so."""
    try:
        yield
    except OSError as error:
        if error.filename is None or (not out.is_relative_to(error.filename) and not Path(error.filename).is_relative_to(out)):
            raise
        raise UserError(f"{sentence(error)}; --out FOLDER puts the picture sheets elsewhere") from error


def _count(done: int) -> None:
    """On a terminal how much has been looked at, in a line that goes away; 0 takes it away."""
    if sys.stderr.isatty():
        print(f"\r\033[K{f'{done} looked at ...' if done else ''}", end="", file=sys.stderr, flush=True)


def _show(finding: Finding) -> None:
    colour = {"pass": "32", "warn": "33", "fail": "31"}[finding.status]
    status = f"\033[{colour}m{finding.status}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else finding.status
    print(f"{status}  {finding.subject:<44} {finding.text}", flush=True)
