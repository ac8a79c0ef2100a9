"""``python -m core.demo``; the command itself is ``core.commands.demo``."""

from core.commands.demo import main
from core.installed.starting import started

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(started(main))
