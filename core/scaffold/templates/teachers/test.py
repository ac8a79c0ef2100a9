from __future__ import annotations

from core.testing import TeacherKit

from template_name import TemplateName


class TestTemplateName(TeacherKit):
    def make(self) -> TemplateName:
        return TemplateName()
