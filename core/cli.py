"""The ``dualloop`` command; what it does is in ``core.commands.cli``."""

from core.commands.cli import main

__all__ = ["main"]
