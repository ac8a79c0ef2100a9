"""``python -m core.convert``; the command itself is ``core.commands.convert``."""

from core.commands.convert import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(main())
