"""Pictures to begin with: the first ones that a run is evaluated on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from core.checkpoints.own_recipe import own_recipe
from core.checkpoints.trained_weights import find_checkpoint
from core.contracts import BadSample, UserError
from core.recipe import build
from core.registry import Registry

MOST = 6


def examples_of(run: Path, registry: Registry, folder: Path) -> tuple[list[Path], str]:
    """PNG files in ``folder``, and why there are none, where there are none."""
    recipe = own_recipe(find_checkpoint(run)[1].parent)
    named = [name for name, entry in (recipe.values.get("evaluate") or {}).items() if isinstance(entry, dict) and "data" in entry]
    if not named:
        return [], "the run's recipe names no evaluator with data"
    try:
        data = build(recipe, ("evaluate", named[0], "data"), registry)
    except (UserError, OSError) as fault:  # its data need not be here
        return [], str(fault)
    files, last, why = list[Path](), np.zeros(0), f"evaluator {named[0]}: none of its first samples can be read"
    for number in range(min(len(data), 20 * MOST)):
        try:
            image = data[number].image
        except BadSample:  # core.check says which and why
            continue
        if not np.array_equal(image, last):  # the regions of a picture follow each other
            files.append(folder / f"example-{len(files) + 1}.png")
            Image.fromarray(image).save(files[-1])
            last = image
        if len(files) == MOST:
            break
    return files, "" if files else why
