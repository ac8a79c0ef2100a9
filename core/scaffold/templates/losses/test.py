from __future__ import annotations

from core.testing import MaskLossKit

from template_name import TemplateName


class TestTemplateName(MaskLossKit):  # a token loss takes TokenLossKit
    def make(self) -> TemplateName:
        return TemplateName()
