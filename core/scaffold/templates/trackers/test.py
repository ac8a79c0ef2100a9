from __future__ import annotations

from core.testing import TrackerKit

from template_name import TemplateName


class TestTemplateName(TrackerKit):
    def make(self) -> TemplateName:
        return TemplateName()
