"""``python -m core.compare``; the command itself is ``core.commands.compare``."""

from core.commands.compare import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(main())
