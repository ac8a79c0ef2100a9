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
        files: list[Path] = []
        last = np.zeros(0)
        for number in range(min(len(data), 20 * MOST)):
            image = data[number].image
            if not np.array_equal(image, last):  # the regions of a picture follow each other
                files.append(folder / f"example-{len(files) + 1}.png")
                Image.fromarray(image).save(files[-1])
                last = image
            if len(files) == MOST:
                break
    except (UserError, BadSample, OSError) as fault:  # its data need not be here
        return [], str(fault)
    return files, ""
