"""``dualloop world OUT_FOLDER``: writes the synthetic world of shapes, as ``python -m plugins.datasets.shapes`` does."""

from __future__ import annotations

from core.installed.starting import spoken
from plugins.datasets.shapes import __main__ as shapes


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return shapes.main(argv, prog=spoken("world"))
