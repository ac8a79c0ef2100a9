"""``python -m core.check RECIPE [key=value ...]``: looks at everything a run will need, before the run.

Use it first on a new server. It checks paths, data (by drawing samples as the run would), sizes, devices and disk. No weights
are loaded. Exit code 0, or 1 if something failed, or 2 for a recipe that is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from core.contracts import UserError
from core.engine.launch import print_notes
from core.engine.rehearsal import rehearse
from core.installed.starting import spoken
from core.preflight.finding import Finding
from core.recipe import Recipe, check, load
from core.registry import Registry

SECONDS = 40.0  # for drawing samples from all sources together


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog=spoken("check"), description="Look at everything a recipe's run will need.")
    parser.add_argument("recipe", metavar="RECIPE")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for core.run")
    parser.add_argument("--samples", type=int, default=200, metavar="N", help="samples drawn from each source (default 200)")
    seconds = f"for drawing from all sources together (default {SECONDS:g}); fewer samples are drawn where it is not enough"
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help=seconds)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for the picture sheets (default: OUTPUT/check-NAME)")
    card = "check for a machine whose GPUs have so many GB (24, 48, 80), instead of this one's"
    parser.add_argument("--card", type=float, metavar="GB", help=card)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.card is not None and not arguments.card > 0:
        parser.error("--card must be above 0")
    if arguments.samples < 1:
        parser.error("--samples must be at least 1")
    try:
        registry, recipe = Registry(), load(arguments.recipe, arguments.overrides)
        if faults := check(recipe, registry) or rehearse(recipe, registry, start=False, files=False):
            print("\n".join(map(str, faults)), file=sys.stderr)
            return 2
        print_notes(recipe.notes)
        out = arguments.out or Path(recipe.values["output"]) / f"check-{recipe.values['name']}"
        findings = []
        for finding in _findings(recipe, registry, arguments.samples, arguments.seconds, out, arguments.card):
            findings.append(finding)
            if not arguments.json:
                _show(finding)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed = any(finding.status == "fail" for finding in findings)
    if arguments.json:
        print(json.dumps({"ok": not failed, "findings": [asdict(finding) for finding in findings], "sheets": str(out)}, indent=1))
    else:
        counts = {status: sum(finding.status == status for finding in findings) for status in ("pass", "warn", "fail")}
        sheets = f"; picture sheets in {out}" if out.is_dir() else ""
        print(f"\n{', '.join(f'{count} {status}' for status, count in counts.items())}{sheets}")
    return int(failed)


def _findings(recipe: Recipe, registry: Registry, samples: int, seconds: float, out: Path, card: float | None) -> Iterator[Finding]:
    from core.preflight import data, loops, machine, memory  # late: they import torch

    facts, found = machine.model_facts(recipe, registry)
    paths = list(machine.paths(recipe, registry))
    yield from paths
    yield found
    yield from machine.answers(facts)
    teachers = machine.teacher_facts(recipe, registry)
    yield from (found for _, found in teachers)
    sources, built = data.sources(recipe, registry, [path.subject for path in paths if path.status == "fail"])
    yield from built
    yield from data.draw(recipe, registry, sources, facts, samples, seconds, out)
    yield from data.leaks(sources)
    yield from machine.epochs(recipe, sources)
    yield from loops.within_batch(recipe, registry)
    yield from machine.devices(recipe, card)
    theirs = [told for told, _ in teachers if told]
    yield from machine.disk(recipe, facts, theirs)
    yield from memory.on_a_gpu(recipe, registry, facts, theirs, card)
    yield from memory.of_the_host(recipe, registry, facts, card)


def _show(finding: Finding) -> None:
    colour = {"pass": "32", "warn": "33", "fail": "31"}[finding.status]
    status = f"\033[{colour}m{finding.status}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else finding.status
    print(f"{status}  {finding.subject:<44} {finding.text}", flush=True)
