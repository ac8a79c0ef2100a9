"""``python -m core.evaluate``; the command itself is ``core.commands.evaluate``."""

from core.commands.evaluate import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(main())
