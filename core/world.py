"""``python -m core.world``; the command itself is ``core.commands.world``."""

from core.commands.world import main
from core.installed.starting import started

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(started(main))
