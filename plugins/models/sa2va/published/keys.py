"""The published keys and the network's own names, each from the other, by the rows of ``tables``.

The tensors of SAM2's video memory have no place in ``Network``; they are kept as they are (``is_memory``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from plugins.models.sa2va.published.tables import GROUND, INTERNVL, SEGMENTER, Kind

_FIELDS = {
    "n": r"\d+",
    "n2": r"\d",
    "p": "weight|bias",
    "rest": r".+",
    "attention": r"(?:layers\.\d+\.)?\w+",
    "head": r"(?:output_hypernetworks_mlps\.\d+|iou_prediction_head|pred_obj_score_head)",
}
_MEMORY = re.compile(
    re.escape(GROUND) + r"(memory_attention\.|memory_encoder\.|maskmem_tpos_enc|no_mem_pos_enc|no_obj_ptr|obj_ptr_proj\.|mask_downsample\.)"
)


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", lambda field: f"(?P<{field[1]}>{_FIELDS[field[1]]})", re.escape(template)))


_FORWARD = [(kind, _pattern(published), natives) for kind, published, natives in (*INTERNVL, *SEGMENTER)]
_BACKWARD = [(kind, _pattern(natives[0]), published) for kind, published, natives in (*INTERNVL, *SEGMENTER)]


@dataclass(frozen=True)
class Place:
    """Where a published tensor lives: ``split`` over natives along dim 0, ``row`` of one, ``copies`` in all, or the ``same``."""

    kind: Kind
    natives: tuple[str, ...]
    row: int = 0


@lru_cache(maxsize=4096)
def place(published: str) -> Place | None:
    """The place of one published key in ``Network``, or None for a name that does not belong to the layout."""
    for kind, pattern, natives in _FORWARD:
        if match := pattern.fullmatch(published):
            fields = match.groupdict()
            return Place(kind, tuple(native.format(**fields) for native in natives), int(fields["n"]) if kind == "row" else 0)
    return None


def published_names(native: str, rows: int) -> list[str]:
    """The published keys that hold ``native``; ``rows`` is its size along dim 0. Empty for the second or third of a group."""
    for kind, pattern, published in _BACKWARD:
        if match := pattern.fullmatch(native):
            if kind == "row":
                return [published.format(n=row) for row in range(rows)]
            return [published.format(**match.groupdict())]
    return []


def is_memory(published: str) -> bool:
    """Whether the key belongs to SAM2's video memory, which pictures do not use."""
    return _MEMORY.match(published) is not None
