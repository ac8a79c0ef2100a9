"""The recipes and the small base that come with the toolkit, found from any folder."""

from __future__ import annotations

import difflib
from pathlib import Path

from core.contracts import UserError
from core.installed.starting import ROOT

_IN_A_WHEEL = Path(__file__).with_name("files")  # put there when a wheel is built, see setup.py
#: Holds ``recipes/`` and ``assets/``.
FOLDER = _IN_A_WHEEL if _IN_A_WHEEL.is_dir() else ROOT


def shipped(place: str) -> Path:
    """Where ``recipes/...`` or ``assets/...`` lies; relative where it is inside the current folder. Raises ``UserError``."""
    path = FOLDER / place
    if Path(place).parts[:1] not in (("recipes",), ("assets",)) or ".." in Path(place).parts or not path.exists():
        raise UserError(f"nothing named {place!r} comes with dualloop")
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def recipe_names() -> list[str]:
    return sorted(file.stem for file in (FOLDER / "recipes").glob("*.yaml"))


def find_recipe(given: Path | str) -> Path:
    """The file of that name, or else the shipped recipe of that name. Raises ``UserError`` for a name that is neither.

    What is written as a path (with a folder or a suffix) is a file and nothing else.
    """
    path = Path(given)
    if path.is_file() or path.suffix or len(path.parts) != 1:
        return path
    if path.name not in recipe_names():
        near = difflib.get_close_matches(path.name, recipe_names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"with dualloop come {', '.join(recipe_names())}"
        raise UserError(f"there is no recipe {path.name!r}, neither a file nor one that comes with dualloop: {hint}")
    return shipped(f"recipes/{path.name}.yaml")
