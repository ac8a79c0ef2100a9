"""``python -m core.convert``; the command itself is ``core.commands.convert``."""

from core.commands.convert import main
from core.installed.starting import started

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(started(main))
