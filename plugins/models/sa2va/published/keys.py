"""The published keys and the network's own names, each from the other, by the rows of ``tables``: a ``Layout`` for each family.

The tensors of SAM2's video memory have no place in ``Network``; they are kept as they are (``is_memory``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from plugins.models.sa2va.published.tables import GROUND, SEGMENTER, Rows

_FIELDS = {
    "n": r"\d+",
    "n2": r"\d",
    "p": "weight|bias",
    "rest": r".+",
    "attention": r"(?:layers\.\d+\.)?\w+",
    "head": r"(?:output_hypernetworks_mlps\.\d+|iou_prediction_head|pred_obj_score_head)",
}
_MEMORY = re.compile(
    re.escape(GROUND) + r"(memory_attention\.|memory_encoder\.|maskmem_tpos_enc|no_mem_pos_enc|no_obj_ptr|obj_ptr_proj\.|mask_downsample\."
    r"|no_obj_embed_spatial|obj_ptr_tpos_proj\.)"
)


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", lambda field: f"(?P<{field[1]}>{_FIELDS[field[1]]})", re.escape(template)))


@dataclass(frozen=True)
class Place:
    """Where a published tensor lives: ``split`` over natives along dim 0, ``row`` of one, ``copies`` in all, or the ``same``.

    A split tensor is ``groups`` times the same sequence: ``shares[0]`` units of the first native, then ``shares[1]`` of the second, ...
    """

    kind: str
    natives: tuple[str, ...]
    row: int = 0
    groups: int = 1
    shares: tuple[int, ...] = (1, 1, 1)

    def runs(self, rows: int) -> Iterator[tuple[int, int, int, int]]:
        """(number of the native, its first row, the first row in the published tensor, how many) of a split tensor of ``rows``."""
        unit, published = rows // (self.groups * sum(self.shares)), 0
        for group in range(self.groups):
            for native, share in enumerate(self.shares):
                yield native, group * share * unit, published, share * unit
                published += share * unit


class Layout:
    """The names of one family's published checkpoints."""

    def __init__(self, rows: Rows, groups: int = 1, queries: int = 1, adapted: str = "language_model.") -> None:
        """``rows``: of the backend's parts. ``groups``, ``queries``: heads of keys, and of queries for each of them (kind ``grouped``).

        ``adapted``: the published prefix of the module that upstream's trainer gives to PEFT.
        """
        self.adapted = adapted
        self._groups, self._queries = groups, queries
        self._forward = [(kind, _pattern(published), natives) for kind, published, natives in (*rows, *SEGMENTER)]
        self._backward = [(kind, _pattern(natives[0]), published) for kind, published, natives in (*rows, *SEGMENTER)]
        self._known: dict[str, Place | None] = {}
        #: The published keys of the token embeddings and of the output layer, which a config may declare to be one.
        [self.embeddings], [self.head] = (self.names(f"llm.{name}.weight", 0) for name in ("model.embed_tokens", "lm_head"))

    def place(self, published: str) -> Place | None:
        """The place of one published key in ``Network``, or None for a name that does not belong to the layout."""
        if published not in self._known:
            self._known[published] = self._place(published)
        return self._known[published]

    def _place(self, published: str) -> Place | None:
        for kind, pattern, natives in self._forward:
            if match := pattern.fullmatch(published):
                fields = match.groupdict()
                names = tuple(native.format(**fields) for native in natives)
                if kind == "grouped":
                    return Place("split", names, groups=self._groups, shares=(self._queries, 1, 1))
                return Place(kind, names, int(fields["n"]) if kind == "row" else 0)
        return None

    def names(self, native: str, rows: int) -> list[str]:
        """The published keys that hold ``native``; ``rows`` is its size along dim 0. Empty for the second or third of a group."""
        for kind, pattern, published in self._backward:
            if match := pattern.fullmatch(native):
                if kind == "row":
                    return [published.format(n=row) for row in range(rows)]
                return [published.format(**match.groupdict())]
        return []


def is_memory(published: str) -> bool:
    """Whether the key belongs to SAM2's video memory, which pictures do not use."""
    return _MEMORY.match(published) is not None
