from __future__ import annotations

import torch
from core.testing import GradientOpKit

from template_name import TemplateName


class TestTemplateName(GradientOpKit):
    def make(self) -> TemplateName:
        return TemplateName()

    def test_what_disagrees_is_dropped(self) -> None:
        gradients = torch.tensor([[3.0, -1.0, 1.0], [-1.0, -2.0, -2.0]])
        update = self.combine(gradients, torch.tensor([1.0, 1.0], dtype=torch.float64))
        assert update.tolist() == [3.0, -3.0, -2.0]
