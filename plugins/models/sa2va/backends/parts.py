"""What all backends have: a picture encoder, a projector, and a language model with its head."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Parts:
    """The part of ``backend.Backend`` that is the same for each."""

    vision: Any
    projector: nn.Module
    llm: Any

    @property
    def parts(self) -> dict[str, nn.Module]:
        return {"vision": self.vision, "projector": self.projector, "llm": self.llm}

    @property
    def head(self) -> nn.Module:
        head: nn.Module = self.llm.lm_head
        return head

    @property
    def embedding(self) -> nn.Parameter:
        weight: nn.Parameter = self.llm.model.embed_tokens.weight
        return weight

    def embed(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.llm.model.embed_tokens(ids)
        return embedded
