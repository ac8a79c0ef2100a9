"""The recipes and the small base that come with the toolkit, found from any folder."""

from __future__ import annotations

import difflib
from pathlib import Path

from core.contracts import UserError
from core.installed.home import home
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
    """The file of that name, or else the shipped recipe of that name. Raises ``UserError``, with a name like it, where there is neither.

    What is written as a path (with a folder or a suffix) is a file and nothing else.
    """
    path = home(given)
    if path.exists() and not path.is_dir():  # also a pipe
        return path
    if path.name in recipe_names() and len(path.parts) == 1:
        return shipped(f"recipes/{path.name}.yaml")
    if path.is_dir():
        raise UserError(f"{path} is a folder, and a recipe is a YAML file: {_inside(path)}")
    if path.suffix or len(path.parts) != 1:
        near = _alike(path)
        raise UserError(f"the recipe {path} cannot be read: No such file or directory" + (f"; did you mean {near}?" if near else ""))
    near = next(iter(difflib.get_close_matches(path.name, recipe_names(), n=1)), None) or _alike(path)
    hint = f"did you mean {near!r}?" if near else f"with dualloop come {', '.join(recipe_names())}"
    raise UserError(f"there is no recipe {path.name!r}, neither a file nor one that comes with dualloop: {hint}")


def _inside(folder: Path) -> str:
    """What may be meant by a folder that was given as a recipe."""
    if (folder / "recipe.json").is_file():
        return f"it is a run, which --resume {folder} goes on with; what it was made with is {folder / 'recipe.yaml'}"
    files = sorted(file.name for file in folder.glob("*.y*ml"))
    return f"in it are {', '.join(files[:5])}{', ...' if len(files) > 5 else ''}" if files else "there is none in it"


def _alike(path: Path) -> str | None:
    """A recipe with nearly this name: in the same folder, or one that comes with dualloop."""
    files = {file.name: str(file) for file in path.parent.glob("*.y*ml")}
    near = difflib.get_close_matches(path.name, files, n=1, cutoff=0.75)
    near = near or difflib.get_close_matches(f"{path.stem}.yaml", files, n=1, cutoff=0.8)  # only the suffix is wrong
    return files[near[0]] if near else next(iter(difflib.get_close_matches(path.stem, recipe_names(), n=1)), None)
