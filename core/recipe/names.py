"""Names that a recipe gives: of the run, and of its loops, tasks, sources, evaluators and trackers. All become names of files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core.recipe.faults import KeyPath

_FORBIDDEN = '/\\*?"<>|[]'  # what parts paths, and what patterns of files are made of
_LONGEST = 100  # letters; folders and files add a time or a number


def wrong_name(name: str, first: str = ".-~") -> str | None:
    """What a name must not be, None for a good one. ``first``: letters that it must not begin with."""
    if not name.strip():
        return "a name must not be empty"
    if found := [letter for letter in name if letter in _FORBIDDEN]:
        return f"a name must not have {found[0]} in it: it becomes the name of a folder or file, without any of {' '.join(_FORBIDDEN)}"
    if found := [letter for letter in name if not letter.isprintable()]:
        return f"a name must not have the control character {found[0]!r} in it"
    if name != name.strip():
        return "a name must not begin or end with a space"
    if name[0] in first or name[-1] == ".":
        return f"a name must not begin with {' or '.join(first)}, nor end with a point"
    if len(name) > _LONGEST or len(name.encode()) > 2 * _LONGEST:
        return f"a name has at most {_LONGEST} letters, this one has {len(name)} ({len(name.encode())} bytes)"
    return None


def check_names(values: dict[str, Any], fault: Callable[[KeyPath, str], Any]) -> None:
    """Reports each name of a recipe that no file could have."""
    if isinstance(name := values.get("name"), str) and (wrong := wrong_name(name)):
        fault(("name",), wrong)
    for path in _named(values):
        if wrong := wrong_name(str(path[-1]), "."):
            fault(path, wrong)


def _named(values: dict[str, Any]) -> list[KeyPath]:
    """Key paths of what the user names."""
    found: list[KeyPath] = [(section, name) for section in ("evaluate", "track", "loops") for name in _mapping(values.get(section))]
    for loop, entry in _mapping(values.get("loops")).items():
        for task, inside in _mapping(_mapping(entry).get("tasks")).items():
            found.append(("loops", loop, "tasks", task))
            found += [("loops", loop, "tasks", task, "data", source) for source in _mapping(_mapping(inside).get("data"))]
    return found


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
