"""A variant's bootstrap draws on disk: those of two models on the same pictures differ in the models alone and can be subtracted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.contracts import Item
from core.engine.evaluation import digest, seven_digits, write_whole

if TYPE_CHECKING:
    import numpy as np

FILE = "draws.json"  # beside a variant's items.jsonl


@dataclass(frozen=True)
class Drawn:
    """``items``: a digest of what was measured and how it was drawn, equal for two models asked the same.

    ``draws``: metric -> [R], None where it was not finite.
    """

    items: str
    units: int
    draws: Mapping[str, Sequence[float | None]]


def write_draws(folder: Path, items: Sequence[Item], draws: Mapping[str, np.ndarray]) -> None:
    """``FILE`` in ``folder``, of the usable ``items`` and the ``draws`` [R] of each metric; seven digits of each."""
    units = len({item["unit"] for item in items if "bad" not in item})
    found = {"items": digest(items), "units": units, "draws": seven_digits(draws)}
    write_whole(folder / FILE, json.dumps(found, allow_nan=False, separators=(",", ":")) + "\n")


def read_draws(folder: Path) -> Drawn | None:
    """None where there is no such file, or none that can be read."""
    try:
        found: Any = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return Drawn(str(found["items"]), int(found["units"]), {str(name): _numbers(values) for name, values in found["draws"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _numbers(values: Sequence[Any]) -> list[float | None]:
    return [None if value is None else float(value) for value in values]
