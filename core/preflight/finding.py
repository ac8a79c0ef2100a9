"""What the parts of the preflight share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    status: str  # pass, warn or fail
    subject: str  # a key path of the recipe, or a word
    text: str


#: The facts that a model component gives without its weights; empty if it gives none.
Facts = dict[str, Any]


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
