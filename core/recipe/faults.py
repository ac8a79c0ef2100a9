"""Where something in a recipe stands, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

KeyPath = tuple[str | int, ...]  # ("loops", "loop1", "tasks"), list items by index


@dataclass(frozen=True)
class Origin:
    """Where a value was written: a file and line (from 1), the command line, or nowhere: a default."""

    place: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.place}:{self.line}" if self.line else self.place

    @property
    def folder(self) -> Path:
        """The folder that relative names of local files start from."""
        return Path(self.place).parent if self.line else Path.cwd()


COMMAND_LINE = Origin("command line")
DEFAULT = Origin("default")


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a recipe."""

    origin: Origin
    path: KeyPath
    message: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (str(self.origin), path_text(self.path), self.message)))


def path_text(path: KeyPath) -> str:
    """``loops.loop1.tasks[0]``"""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def shown(value: Any) -> str:
    """A value as a fault names it."""
    match value:
        case None:
            return "null"
        case bool():
            return f"{str(value).lower()} (a boolean)"
        case int():
            return f"{value} (an integer)"
        case float():
            return f"{value} (a float)"
        case str():
            return f"{value!r} (text)" if len(value) <= 60 else f"{value[:57]!r}... (text)"
        case dict():
            return "a mapping"
        case _:
            return "a list"
