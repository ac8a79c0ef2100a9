"""``--sweep key=a,b key=c,d``: a grid of runs of one recipe, checked as a whole, then carried out one after another."""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from core.contracts import UserError
from core.engine.launch import print_notes
from core.engine.sweep_point import FILE, keep_axes
from core.installed.children import wait_for
from core.installed.starting import module_options, spoken
from core.recipe import check, load
from core.registry import Registry

#: More runs than this are taken for a mistake in the grid.
MOST_RUNS = 1000


def split_values(text: str) -> list[str]:
    """``1,2`` and ``{use: sum},{use: x, anchor: a}`` cut at the commas outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += letter
    return [part.strip() for part in parts]


def grid(axes: Sequence[str]) -> list[list[str]]:
    """Every combination of the axes' values, each as overrides ``key=value``; the last axis varies fastest.

    Raises UserError for an axis without values, one given twice, and for too many runs.
    """
    choices: dict[str, list[str]] = {}
    for axis in axes:
        key, equals, written = axis.partition("=")
        values = split_values(written)
        if not key or not equals or not all(values):
            raise UserError(f"{axis!r} is no axis of a sweep: write key.path=value,value")
        if key in choices:
            raise UserError(f"--sweep names {key} twice: give all its values once, {key}=a,b")
        if len(set(values)) < len(values):
            raise UserError(f"--sweep {axis}: it has the same value twice, and these runs would be equal")
        choices[key] = [f"{key}={value}" for value in values]
    runs = [list(combination) for combination in itertools.product(*choices.values())]
    if len(runs) > MOST_RUNS:
        raise UserError(f"the sweep has {len(runs)} runs, more than {MOST_RUNS}: sweep fewer values")
    return runs


def points(recipe: str, overrides: Sequence[str], axes: Sequence[str], registry: Registry) -> tuple[list[list[str]], list[str]]:
    """(overrides of each run, the given ones included; notes of all). Raises UserError with the faults of all; nothing has been started."""
    found = [[*overrides, *combination] for combination in grid(axes)]
    recipes = [load(recipe, own) for own in found]
    faults = dict.fromkeys(fault for one in recipes for fault in check(one, registry))
    if faults:
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''} in the sweep of {recipe}; nothing has been started"
        raise UserError("\n".join([count, *map(str, faults)]))
    return found, list(dict.fromkeys(note for one in recipes for note in one.notes))


def sweep(recipe: str, overrides: Sequence[str], axes: Sequence[str], registry: Registry, options: argparse.Namespace) -> int:
    """Runs the grid; returns 0 if all runs ended well, otherwise the first failing run's exit code.

    A run that fails does not stop the others. The runs lie in one folder of their own, which ``core.compare`` takes as a whole.
    With ``options.dry_run`` the commands are printed instead, with ``options.check`` nothing more is done than the check.
    """
    runs, notes = points(recipe, overrides, axes, registry)
    whole = load(recipe, overrides)
    check(whole, registry)  # only then it has the name and the output as they were typed
    values = whole.values
    folder = Path(values["output"]) / f"{values['name']}-sweep-{time.strftime('%Y%m%d-%H%M%S')}"
    varied = [" ".join(own[len(overrides) :]) for own in runs]
    commands = [[recipe, *own, f"output={folder}", *(["--quiet"] if options.quiet else [])] for own in runs]
    if options.check or options.dry_run:
        print_notes(notes)  # otherwise each run says its own
    if options.check:
        print("\n".join([*varied, f"recipe OK: {len(runs)} runs"]))
        return 0
    if options.dry_run:
        keep_axes(folder, [axis.partition("=")[0] for axis in axes])
        print(f"{folder / FILE} keeps what varies, by which trackers call and group the runs", file=sys.stderr)
        print("\n".join(f"{spoken('run')} {shlex.join(one)}" for one in commands))
        return 0
    keep_axes(folder, [axis.partition("=")[0] for axis in axes])
    codes: list[int] = []
    for number, (one, text) in enumerate(zip(commands, varied, strict=True), 1):
        print(f"run {number} of {len(runs)}: {text}", flush=True)
        code, stopped = wait_for([sys.executable, *module_options(), "-m", "core.run", *one])
        codes.append(code)
        if stopped:
            break
    failed = [f"\n  failed: {text} (exit code {code})" for text, code in zip(varied, codes, strict=False) if code]
    print(f"sweep: {len(codes) - len(failed)} of {len(runs)} runs ended well" + "".join(failed))
    print(f"look at them: {spoken('compare')} {shlex.quote(str(folder))}")
    return next((code for code in codes if code), 0)
