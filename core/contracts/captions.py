"""The captions that a teacher writes, in the student's tokens: for loops that learn from them, and teachers that have only text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.contracts.kinds import Teacher
from core.contracts.model import Model
from core.contracts.optional import WritesCaptions
from core.contracts.travel import RegionBatch, Tokens

_LONGEST_END = 64  # tokens of a turn's end


def teacher_captions(teacher: Teacher, model: Model, vision: Any, batch: RegionBatch, length: int) -> Tokens:
    """[B, T] captions of the first views' regions, at most ``length`` tokens of ``model``, without special tokens or the turn's end.

    A teacher that writes captions is asked for them; otherwise the student writes them with the teacher's weights.
    """
    if isinstance(teacher, WritesCaptions):
        return teacher.captions(model, vision, batch, length)
    with teacher.weights():
        return model.generate(vision, batch.view1, batch.cells, length)


def generated_tokens(model: Model, texts: Sequence[str], length: int) -> Tokens:
    """[B, T] texts as ``model.generate`` would return them: cut to ``length`` tokens, and without the turn's end."""
    end = model.tokenize([""], _LONGEST_END)  # an empty answer is the turn's end alone
    turn_end: list[int] = end.ids[0][end.mask[0]].tolist()
    whole = model.tokenize(texts, length + len(turn_end))  # [B, W]
    sizes = []
    for ids, mask in zip(whole.ids, whole.mask, strict=True):
        row: list[int] = ids[mask].tolist()
        ended = bool(turn_end) and row[-len(turn_end) :] == turn_end
        sizes.append(min(length, len(row) - len(turn_end) if ended else len(row)))
    width = max(1, *sizes) if sizes else 1
    mask = whole.mask[:, :width] & (whole.mask[:, :width].cumsum(1) <= whole.ids.new_tensor(sizes)[:, None])
    return Tokens(whole.ids[:, :width].masked_fill(~mask, model.pad_token), mask)
