"""``python -m core.recipes``: the recipes that come with the toolkit; ``copy`` writes one to edit."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from core.commands.printing import table
from core.contracts import UserError
from core.installed.shipped import find_recipe, recipe_names, shipped
from core.installed.starting import spoken
from core.outside import Ending

_BASE = re.compile(r"^base: *(\S+\.yaml)", re.MULTILINE)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 2 for what the user can put right."""
    arguments = _parser().parse_args(argv)
    with Ending() as ending:
        if arguments.command == "copy":
            _copy(arguments.name, arguments.file)
            return 0
        table(("recipe", "what it does"), [(name, _does(name)) for name in recipe_names()])
        print(f"\nto run one: {spoken('run')} NAME; to edit one: {spoken('recipes')} copy NAME")
        return 0
    return ending.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=spoken("recipes"),
        description="The recipes that come with dualloop; without a word: list them.",
        epilog=f"where two recipes differ: {spoken('run')} RECIPE --diff OTHER",
    )
    commands = parser.add_subparsers(dest="command")
    copying = commands.add_parser("copy", help="write a recipe to a file of one's own, to edit it")
    copying.add_argument("name", metavar="NAME", help="as the list has it")
    copying.add_argument("file", nargs="?", type=Path, metavar="FILE", help="default: NAME.yaml here; must not exist")
    return parser


def _does(name: str) -> str:
    """The first line of the recipe's opening comment."""
    with shipped(f"recipes/{name}.yaml").open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip()


def _copy(name: str, file: Path | None) -> None:
    """Raises ``UserError`` for an unknown name, a file that is there already, and one that cannot be written."""
    if name not in recipe_names():
        find_recipe(Path(name).name)  # says which there are
        raise UserError(f"{name!r} is no recipe that comes with dualloop: there are {', '.join(recipe_names())}")
    file = file or Path(f"{name}.yaml")
    if file.exists():
        raise UserError(f"{file} exists already: name another file")
    bases = {file.parent / base.name: base for base in _bases(shipped(f"recipes/{name}.yaml"))}
    if other := next((there for there, base in bases.items() if there.exists() and there.read_bytes() != base.read_bytes()), None):
        raise UserError(f"{other} exists already and is another recipe than the one that {name} builds on: name a file in another folder")
    for there, source in ({file: shipped(f"recipes/{name}.yaml")} | bases).items():
        _write(there, source)
    beside = f" and {', '.join(map(str, bases))}, which it builds on" if bases else ""
    print(f"wrote {file}{beside}; now: {spoken('run')} {file} --check")


def _bases(recipe: Path) -> list[Path]:
    """The recipes that a shipped one builds on, each beside it."""
    if not (found := _BASE.search(recipe.read_text(encoding="utf-8"))):
        return []
    base = recipe.with_name(found[1])
    return [base, *_bases(base)]


def _write(file: Path, source: Path) -> None:
    try:
        file.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error
