"""``python -m core.components``; the command itself is ``core.commands.components``."""

from core.commands.components import main
from core.installed.starting import started

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(started(main))
