"""Which run is meant: a run's folder by its exact name, the newest run of a recipe's name. Importing this does not import torch."""

from __future__ import annotations

import difflib
import json
import re
import time
from pathlib import Path
from typing import Any

from core.contracts import UserError
from core.engine.best import named_best

MADE_OF = "made_of.json"  # beside recipe.json: what the run was made of, and when
_CHECKPOINT = re.compile(r"update-(\d+)")
_TIME = re.compile(r"-(\d{8}-\d{6})(?:-\d+)?")


def is_run(folder: Path) -> bool:
    return (folder / "recipe.json").is_file()


def runs_of(parent: Path, name: str) -> list[Path]:
    """The runs in ``parent`` whose recipe has exactly this name, in the order in which they were begun."""
    children = [path for path in parent.iterdir() if is_run(path)] if parent.is_dir() else []
    return sorted((path for path in children if read(path / "recipe.json").get("name") == name), key=lambda path: (begun(path), path.name))


def begun(run: Path) -> float:
    """When it was begun, in seconds since 1970: as it recorded it; of an older run by its folder's name, or else by its recipe's file."""
    recorded = read(run / MADE_OF).get("begun")
    if isinstance(recorded, int | float):
        return float(recorded)
    if found := _TIME.search(run.name):
        return time.mktime(time.strptime(found[1], "%Y%m%d-%H%M%S"))
    return (run / "recipe.json").stat().st_mtime


def read(file: Path) -> dict[str, Any]:
    """The mapping in a JSON file; empty where there is none that can be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def run_named(folder: Path) -> Path:
    """The run that ``--resume folder`` means: the folder, or that of its newest checkpoint where this is named.

    Raises ``UserError``, with the run that may be meant, for anything else.
    """
    if is_run(folder):
        if not (folder / "recipe.yaml").is_file():
            raise UserError(f"{folder / 'recipe.yaml'}: not found; a run is resumed with its own recipe, which lies in its folder")
        return folder
    if folder.is_file():
        raise UserError(f"--resume {folder}: this file is neither a run folder nor a recipe, which is a .yaml file")
    folder = named_best(folder)
    run = folder.parent.parent
    if folder.parent.name == "checkpoints" and is_run(run):
        return _of_checkpoint(folder, run)
    if around := next((one for one in folder.resolve().parents if is_run(one)), None):
        raise UserError(f"--resume {folder}: it lies in the run {around}: name that folder, the newest checkpoint is found in it")
    if folder.is_dir():
        runs = sorted((path for path in folder.iterdir() if is_run(path)), key=begun)
        hint = f"; the newest run in it is {runs[-1]}" if runs else ""
        raise UserError(f"nothing to resume: {folder} is no run folder (no recipe.json in it){hint}")
    near = (
        difflib.get_close_matches(folder.name, [path.name for path in folder.parent.iterdir() if is_run(path)], n=1)
        if (folder.parent.is_dir())
        else []
    )
    hint = f"did you mean {folder.parent / near[0]}?" if near else "run without --resume first"
    raise UserError(f"nothing to resume: no run folder {folder}; {hint}")


def _of_checkpoint(folder: Path, run: Path) -> Path:
    """The run, where ``folder`` is its newest checkpoint: to go on from it is what --resume does. Raises ``UserError`` otherwise."""
    there = {int(found[1]): path for path in folder.parent.iterdir() if (found := _CHECKPOINT.fullmatch(path.name))}
    if not there:
        raise UserError(f"--resume {folder}: the run {run} has no checkpoint; --resume {run} begins it again")
    newest = max(there)
    if folder.name == there[newest].name:
        return run
    if not folder.is_dir():
        known = ", ".join(str(update) for update in sorted(there))
        raise UserError(f"--resume {folder}: not found; the run {run} has the checkpoints of updates {known}")
    raise UserError(
        f"--resume {folder}: a run goes on from its newest checkpoint, {there[newest].name}: --resume {run}. A new run that begins with "
        f"the weights of {folder.name}: start_from={folder}. To take the later updates back, move their checkpoints out of "
        f"{folder.parent} and finished results out of {run} first"
    )
