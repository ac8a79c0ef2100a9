"""``python -m core.check``; the command itself is ``core.commands.check``."""

from core.commands.check import main
from core.installed.starting import started

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(started(main))
