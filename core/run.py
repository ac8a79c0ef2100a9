"""``python -m core.run``; the command itself is ``core.commands.run``."""

from core.commands.run import main
from core.installed.starting import started

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(started(main))
