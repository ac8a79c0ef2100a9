"""A run's folder: made whole or not at all, or found again to go on in, if the recipe is still the same experiment."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.checkpoints.start import fix_start
from core.contracts import UserError
from core.engine import checkpoint
from core.engine.going_on import require_same_recipe, write_recipe
from core.recipe import Recipe, local_files, resolved_values
from core.registry import Registry


def run_folder(recipe: Recipe, registry: Registry, resume: Path | bool | None) -> tuple[Path, Path | None, Path | None]:
    """(the run's folder, the checkpoint to continue from, the folder again if it is new).

    A new folder gets the resolved recipe and local plugin files.
    """
    fix_start(recipe)
    parent, name = Path(recipe.values["output"]), recipe.values["name"]
    runs = sorted(path for path in parent.glob(f"{name}-*") if (path / "recipe.json").is_file())
    if not resume and recipe.values["launch"]["requeue"] and runs and not (runs[-1] / "result.json").is_file():
        resume = runs[-1]  # this is the same job, started again
    if resume:
        folder = resume if isinstance(resume, Path) else runs[-1] if runs else None
        if folder is None or not folder.is_dir():
            raise UserError(f"nothing to resume: no run folder {folder or parent / (name + '-*')}; run without --resume first")
        if not (folder / "recipe.json").is_file():
            raise UserError(f"nothing to resume: {folder} is no run folder (no recipe.json in it); name one, such as {parent / name}-TIME")
        require_same_recipe(folder, resolved_values(recipe, registry))
        found = checkpoint.list_checkpoints(folder / "checkpoints")
        return folder, found[-1][1] if found else None, None
    stamp, folder = time.strftime("%Y%m%d-%H%M%S"), parent
    for attempt in range(1000):
        folder = parent / (f"{name}-{stamp}" + (f"-{attempt}" if attempt else ""))
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:  # two runs in one second
            continue
        except OSError as error:
            raise UserError(f"output: the run folder {folder} cannot be made ({error}); give another folder, output=...") from None
    with removed_on_failure(folder, True):
        for file in local_files(recipe):
            shutil.copyfile(file, folder / file.name)
        write_recipe(folder, recipe, registry)
    return folder, None, folder


@contextmanager
def removed_on_failure(folder: Path, new: bool) -> Iterator[None]:
    """A run that cannot be built leaves no folder behind, in which ``--resume`` would find nothing."""
    try:
        yield
    except BaseException:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
