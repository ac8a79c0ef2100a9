"""Carrying an experiment out: each cell in a process of its own, which trains, or goes on, and then measures what is missing."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.contracts import UserError
from core.engine.progress import duration
from core.engine.run_lock import training
from core.engine.which_run import read
from core.experiments.definition import Cell, Experiment, Setting, entry_name
from core.experiments.run_recipes import overrides
from core.experiments.standing import KEPT, Looking, Standing, cards_folder, keep
from core.installed.children import wait_for
from core.installed.starting import module_options, spoken

FORMER, LOG = "former", "log.txt"  # in a cell's folder: runs of another definition; what its processes said
Command = Callable[[list[str]], int]  # takes the words after its name, returns the exit code
STOPPED = 143  # exit code of what was told to end, as a shell gives it


def command(experiment: Experiment, cell: Cell) -> str:
    """The shell command that carries one cell out."""
    return f"{spoken('experiment')} {shlex.quote(str(experiment.file))} --cell {shlex.quote(cell.name)}"


def carry_out(cell: Cell, looking: Looking, chosen: Collection[tuple[str, str]], run: Command, evaluate: Command, quiet: bool) -> int:
    """Trains and measures what one cell lacks, by the commands ``run`` and ``evaluate`` in this process. Returns the exit code.

    Raises ``UserError`` where the run is of another recipe, or another process carries this cell out.
    """
    experiment = looking.experiment
    place = experiment.place(cell)
    place.mkdir(parents=True, exist_ok=True)
    with training(place):
        standing = looking.at(cell, chosen)
        if standing.changed:
            raise UserError(changed_sentence(standing))
        if not standing.trained:
            if standing.run:
                asked = ["--resume", str(standing.run)]
            else:
                asked = [str(experiment.variants[cell.variant].base), *overrides(experiment, cell)]
            code = run([*asked, *(["--quiet"] if quiet else [])])
            standing = looking.at(cell, chosen)
            if standing.run:
                keep(standing.run, {"definition": looking.stamps.definition(cell)})
            if code or not standing.trained:
                return code or STOPPED
        return _measure(standing, looking, evaluate, quiet)


def _measure(standing: Standing, looking: Looking, evaluate: Command, quiet: bool) -> int:
    experiment, cell, run = looking.experiment, standing.cell, standing.run
    if not standing.missing or run is None:
        return 0
    now = {entry_name(group, name): looking.stamps.evaluation(cell, group, name) for group, name in standing.missing}
    kept = {} if cell.seed is None and standing.other else read(run / KEPT).get("asked", {})
    keep(run, {"definition": looking.stamps.definition(cell), "asked": {**kept, **now}})
    settings = [experiment.evaluate[group][name] for group, name in standing.missing]
    aside = [f"evaluate.{name}=null" for name in looking.found[cell].values["evaluate"] if name not in now]
    if cell.seed is None:
        source = [str(experiment.variants[cell.variant].base), *_of_model(experiment.settings(cell)), "--out", str(cards_folder(run))]
    else:
        source = [str(run)]
    given = [*source[:1], *aside, *map(str, settings), *source[1:]]
    return evaluate([*given, *(["--overwrite"] if standing.other else []), *(["--quiet"] if quiet else [])])


def _of_model(settings: Sequence[Setting]) -> list[str]:
    """The settings that an evaluation takes: of the model and the recipe's variables."""
    return [str(setting) for setting in settings if setting.key.startswith(("model.", "data."))]


def changed_sentence(standing: Standing) -> str:
    return (
        f"{standing.cell}: the file says something else than its run in {standing.run} was made with: {standing.changed}. Give the changed "
        f"variant another name, put back what was there, or use --again: the run is put into {FORMER}/ beside it, and made anew"
    )


def put_away(experiment: Experiment, standing: Standing) -> None:
    """A run of another definition goes into ``former/``, where no report looks."""
    place = experiment.place(standing.cell)
    with training(place):
        (place / FORMER).mkdir(exist_ok=True)
        for run in [path for path in place.iterdir() if (path / "recipe.json").is_file()]:
            shutil.move(run, place / FORMER / run.name)


@dataclass
class Done:
    """What a command has carried out. ``failed``: a cell's name and a sentence on what stopped it."""

    carried: int = 0
    failed: dict[Cell, str] = field(default_factory=dict)
    code: int = 0  # the first failing cell's exit code
    stopped: bool = False  # it was asked to stop


def carry_out_all(experiment: Experiment, todo: Sequence[Cell], say: Callable[[str], None], done: Done) -> None:
    """Each cell after the other; one that fails stops none of the others."""
    begun, before = time.monotonic(), done.carried
    for number, cell in enumerate(todo, 1):
        place = experiment.place(cell)
        place.mkdir(parents=True, exist_ok=True)
        log, since = place / LOG, time.monotonic()
        start = log.stat().st_size if log.is_file() else 0
        say(f"{number} of {len(todo)}: {cell} (its output: {log})")
        arguments = [sys.executable, *module_options(), "-m", "core.experiment", str(experiment.file), "--cell", cell.name]
        code, done.stopped = wait_for(arguments, log)
        done.carried += 1
        if done.stopped:
            done.code = done.code or code or STOPPED
            return
        if code:
            done.code, done.failed[cell] = done.code or code, reason(log, start, code)
            say(f"  failed: {done.failed[cell]}")
        each = (time.monotonic() - begun) / (done.carried - before)
        left = len(todo) - number
        say(f"  {duration(time.monotonic() - since)}" + (f"; {left} left, about {duration(left * each)}" if left else ""))


def reason(log: Path, start: int, code: int) -> str:
    """The last sentence of an error in what a process said, from byte ``start`` of its log on."""
    with open(log, "rb") as stream:
        stream.seek(start)
        lines = [line.strip() for line in stream.read().decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    said = (errors or lines or [""])[-1].removeprefix("error: ")
    return f"{said} (exit code {code})" if said else f"exit code {code}; it said nothing"
