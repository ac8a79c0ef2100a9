from __future__ import annotations

from core.testing import GradientOpKit

from damped_conflict import DampedConflict


class TestDampedConflict(GradientOpKit):
    sum_without_conflict = True  # the kit checks what the op declares
    scope = "global"

    def make(self) -> DampedConflict:
        return DampedConflict(anchor="loop1")
