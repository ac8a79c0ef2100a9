from __future__ import annotations

from core.testing import LoopKit

from template_name import TemplateName


class TestTemplateName(LoopKit):
    reaches = frozenset({"projector", "language"})

    def make(self) -> TemplateName:
        return TemplateName(hidden=8, width=4, caption_length=6)  # 8: of the kit's small model
