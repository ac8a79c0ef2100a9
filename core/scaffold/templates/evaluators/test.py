from __future__ import annotations

from core.contracts import Dataset
from core.testing import EvaluatorKit

from template_name import TemplateName


class TestTemplateName(EvaluatorKit):
    def make(self, data: Dataset) -> TemplateName:
        return TemplateName(data=data)
