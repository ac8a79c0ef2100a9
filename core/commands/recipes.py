"""``python -m core.recipes``: the recipes that come with the toolkit; ``copy`` writes one to edit."""

from __future__ import annotations

import argparse
from pathlib import Path

from core.commands.printing import table
from core.contracts import UserError
from core.installed.shipped import find_recipe, recipe_names, shipped
from core.installed.starting import spoken
from core.outside import Ending


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
    parser = argparse.ArgumentParser(prog=spoken("recipes"), description="The recipes that come with dualloop; without a word: list them.")
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
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(shipped(f"recipes/{name}.yaml").read_text(encoding="utf-8"))
    except FileExistsError:
        raise UserError(f"{file} exists already: name another file") from None
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error
    print(f"wrote {file}; now: {spoken('run')} {file} --check")
