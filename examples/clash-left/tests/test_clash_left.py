from __future__ import annotations

from core.testing import MaskLossKit

from clash_left import ClashLeft


class TestClashLeft(MaskLossKit):  # a token loss takes TokenLossKit
    def make(self) -> ClashLeft:
        return ClashLeft()
