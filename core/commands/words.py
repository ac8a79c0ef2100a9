"""The words of ``run``'s command line: unknown options, and what ``--resume`` and the first word mean."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path
from typing import Literal

from core.contracts import UserError
from core.engine.which_run import is_run, run_named
from core.installed.home import home
from core.installed.shipped import recipe_names
from core.recipe.foreign import key_of


def parse(parser: argparse.ArgumentParser, argv: list[str], keys: tuple[str, ...]) -> argparse.Namespace:
    """The arguments. Raises ``UserError`` for options that are none; ``keys``: the top-level keys of recipes."""
    _, unknown = parser.parse_known_intermixed_args(argv)
    if not unknown:
        return parser.parse_intermixed_args(argv)
    word, equals, value = unknown[0].partition("=")
    name = word.lstrip("-")
    if not equals:
        after = argv[argv.index(unknown[0]) + 1 :][:1]
        value = after[0] if after and not after[0].startswith("--") and "=" not in after[0] else "VALUE"
    key = name if "." in name or name in keys else key_of(name)
    if key:
        raise UserError(f"there is no option {word}: keys of a recipe are given without dashes, write {key}={value}")
    options = [option for action in parser._actions for option in action.option_strings]
    near = difflib.get_close_matches(word.replace("_", "-"), options, n=1)
    raise UserError(f"there is no option {word}: " + (f"did you mean {near[0]}?" if near else "--help shows those that there are"))


def recipe_and_run(arguments: argparse.Namespace) -> tuple[str, Path | Literal[True] | None]:
    """The recipe's file or name, and the run folder to go on in, True for the recipe's newest.

    A setting that the parser took for the recipe or for the option's folder is put among ``arguments.overrides``. A run folder has its
    own recipe. Raises ``UserError`` where no recipe is named and for what is no run folder.
    """
    recipe, resume = arguments.recipe, arguments.resume
    if recipe is not None and _is_setting(recipe):
        arguments.overrides.insert(0, recipe)
        recipe = None
    if isinstance(resume, str) and _is_setting(resume):
        arguments.overrides.append(resume)
        resume = True
    folder = home(resume) if isinstance(resume, str) else resume
    own = Path(recipe) if recipe is not None and folder is True else folder if recipe is None else None
    if isinstance(own, Path) and own.name == "recipe.yaml" and is_run(own.parent):
        return str(own), own.parent  # the recipe in a run's folder means that run, also where a newer one has the same name
    if recipe is not None:
        return recipe, folder
    if not isinstance(folder, Path):
        raise UserError(f"name a recipe: a YAML file, or one that comes with dualloop: {', '.join(recipe_names())}")
    if folder.suffix in (".yaml", ".yml") or (not folder.exists() and str(folder) in recipe_names()):
        return str(folder), True  # "--resume RECIPE": the option took the recipe for its folder
    run = run_named(folder)
    return str(run / "recipe.yaml"), run


def _is_setting(word: str) -> bool:
    return "=" in word and not Path(word).exists()
