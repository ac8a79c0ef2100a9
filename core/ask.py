"""``python -m core.ask``; the command itself is ``core.commands.ask``."""

from core.commands.ask import main
from core.installed.starting import started

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(started(main))
