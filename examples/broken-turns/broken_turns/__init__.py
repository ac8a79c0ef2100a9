"""A schedule that no recipe can use here: it asks for a module that nobody has."""

from __future__ import annotations

import a_module_that_nobody_has  # the fault that this example is about


class BrokenTurns:
    """Asks the missing module whose turn it is."""

    def loops(self, update: int) -> list[str]:
        return a_module_that_nobody_has.turn(update)
