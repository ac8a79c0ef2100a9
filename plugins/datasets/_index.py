"""What every reader shares: a spread sample of an index, opening index files with clear faults."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from pathlib import Path

from core.contracts import UserError


def spread(count: int, max_samples: int | None, seed: int = 0) -> Sequence[int]:
    """Increasing indices out of ``range(count)``: one drawn from each of ``max_samples`` equal stretches.

    A range or a packed array, no list: it is held for as long as the data set. The same arguments give the same indices on
    every machine. Raises ``ValueError`` for ``max_samples`` below 1.
    """
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"max_samples must be at least 1 or left out, not {max_samples}.")
    if max_samples is None or max_samples >= count:
        return range(count)
    draw = random.Random(seed)
    return array("q", (draw.randrange(i * count // max_samples, (i + 1) * count // max_samples) for i in range(max_samples)))


def existing_folder(root: Path, source: str, holds: str) -> Path:
    """``root`` with ``~`` expanded. Raises ``UserError`` where it is no folder; ``holds`` says what belongs in it."""
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f"{source}: there is no folder {root}; set root to the folder that holds {holds}.")
    return root


def existing_file(path: Path, source: str) -> Path:
    """``path`` itself. Raises ``UserError`` where it is no file."""
    if not path.is_file():
        raise UserError(f"{source}: {path} is missing; check root, or unpack the data set there.")
    return path
