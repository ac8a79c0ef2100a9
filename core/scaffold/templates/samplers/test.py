from __future__ import annotations

from core.testing import SamplerKit

from template_name import TemplateName


class TestTemplateName(SamplerKit):
    def make(self) -> TemplateName:
        return TemplateName()
