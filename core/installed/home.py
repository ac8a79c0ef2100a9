"""``~`` in a path that the shell did not see: the user's home."""

from __future__ import annotations

from pathlib import Path

from core.contracts import UserError


def home(written: Path | str) -> Path:
    """The path with ``~`` replaced. Raises ``UserError`` for ``~name`` where there is no such user."""
    try:
        return Path(written).expanduser()
    except RuntimeError:
        raise UserError(f"{written}: there is no home folder of that name; write ./{written} for a path that begins with ~") from None
