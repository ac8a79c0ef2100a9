"""``python -m core.dashboard``; the command itself is ``core.commands.dashboard``."""

from core.commands.dashboard import main
from core.installed.starting import started

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(started(main))
