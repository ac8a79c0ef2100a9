"""``python -m core.experiment``; the command itself is ``core.commands.experiment``."""

from core.commands.experiment import main
from core.installed.starting import started

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(started(main))
