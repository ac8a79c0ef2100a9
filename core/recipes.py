"""``python -m core.recipes``; the command itself is ``core.commands.recipes``."""

from core.commands.recipes import main
from core.installed.starting import started

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(started(main))
