"""``python -m core.compare``; the command itself is ``core.commands.compare``."""

from core.commands.compare import main
from core.installed.starting import started

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(started(main))
