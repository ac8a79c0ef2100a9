"""``python -m core.evaluate``; the command itself is ``core.commands.evaluate``."""

from core.commands.evaluate import main
from core.installed.starting import started

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(started(main))
