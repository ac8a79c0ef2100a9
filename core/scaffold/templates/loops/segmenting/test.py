from __future__ import annotations

from collections.abc import Sequence

import torch
from core.contracts import Tokens
from core.testing import LoopKit
from torch import Tensor
from torch.nn import functional as F

from template_name import TemplateName


class Pixels:
    """A mask loss to run the loop with."""

    weight = 1.0

    def __call__(self, logits: Tensor, target: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="none").mean((1, 2))


class CrossEntropy:
    """A token loss to run the loop with."""

    weight = 1.0

    def __call__(self, states: Tensor, tokens: Tokens, head: tuple[Tensor, Tensor | None]) -> Tensor:
        logits = F.linear(states[tokens.mask], *head)
        return F.cross_entropy(logits, tokens.ids[tokens.mask], reduction="sum").to(torch.float32)


class TestTemplateName(LoopKit):
    reaches = frozenset({"projector", "language", "decoder"})  # all groups of the kit's small model

    def make(self) -> TemplateName:
        return TemplateName(losses={"mask": Pixels(), "answer": CrossEntropy()}, caption_length=6)
