from __future__ import annotations

from core.testing import OptimizerKit

from template_name import TemplateName


class TestTemplateName(OptimizerKit):
    def make(self) -> TemplateName:
        return TemplateName(lr=0.01)
