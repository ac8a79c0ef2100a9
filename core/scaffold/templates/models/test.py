from __future__ import annotations

from core.testing import ModelKit

from template_name import TemplateName


class TestTemplateName(ModelKit):
    def make(self) -> TemplateName:
        return TemplateName()
