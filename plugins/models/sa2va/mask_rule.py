"""Which masks of an answer count, where one is asked for. Nothing heavy is imported: a recipe is checked with it.

Source: bytedance/Sa2VA, ``sa2va_eval_refcoco.py`` and ``find_seg_indices``.
"""

from __future__ import annotations

import re
from typing import Literal

from plugins.models.sa2va.prompts import SEG

#: ``first``: the first mask. ``union``: all of them. ``answer``: all whose [SEG] stands in the first <answer>...</answer>.
MaskRule = Literal["first", "union", "answer"]


def counted(rule: MaskRule, text: str, masks: int) -> range:
    """Numbers of the masks that count, of ``masks`` for the first [SEG]s of ``text``; none where there are none."""
    if rule == "first":
        return range(min(1, masks))
    if rule == "union":
        return range(masks)
    span = re.search(r"<answer>.*?</answer>", text, re.DOTALL)
    if span is None:
        return range(0)
    before = text.count(SEG, 0, span.start())
    return range(min(before, masks), min(before + span[0].count(SEG), masks))
