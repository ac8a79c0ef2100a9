from __future__ import annotations

from core.testing import SamplerKit

from expected_embedding import ExpectedEmbedding


class TestExpectedEmbedding(SamplerKit):
    def make(self) -> ExpectedEmbedding:
        return ExpectedEmbedding()
