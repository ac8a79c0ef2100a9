from __future__ import annotations

from core.testing import ScheduleKit

from template_name import TemplateName


class TestTemplateName(ScheduleKit):
    names = frozenset({"loop1", "loop2"})

    def make(self) -> TemplateName:
        return TemplateName(order=["loop1", "loop2"])
