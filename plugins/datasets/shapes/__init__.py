"""A synthetic world of describable shapes, written into the on-disk formats of the real data sets.

``python -m plugins.datasets.shapes OUT_FOLDER`` makes it in seconds; the readers are the real ones.
"""

from __future__ import annotations

from plugins.datasets.shapes.grammar import words
from plugins.datasets.shapes.world import corpus, drawings, write_world

__all__ = ["corpus", "drawings", "words", "write_world"]
