from __future__ import annotations

from core.testing import GradientOpKit

from template_name import TemplateName


class TestTemplateName(GradientOpKit):
    sum_without_conflict = True  # the kit checks what the op declares
    scope = "global"

    def make(self) -> TemplateName:
        return TemplateName(anchor="loop1")
