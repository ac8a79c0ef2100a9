from __future__ import annotations

from core.testing import MaskLossKit

from clash_right import ClashRight


class TestClashRight(MaskLossKit):  # a token loss takes TokenLossKit
    def make(self) -> ClashRight:
        return ClashRight()
