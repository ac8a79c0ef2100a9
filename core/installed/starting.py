"""Starts commands from any folder, also from one that has its own packages named ``core`` or ``plugins``.

``python -m`` puts the current folder before the installed packages. Here the current folder comes after them: a recipe may
name ``package.module:Object`` from it, and it hides no installed package.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from core.outside import Ending, any_text

#: The folder that holds the packages ``core`` and ``plugins``: a checkout, or where pip installed them.
ROOT = Path(__file__).resolve().parents[2]


def started(main: Callable[[], int]) -> int:
    """Runs a command's ``main`` with the current folder last on the path of modules; returns its exit code."""
    any_text()
    with Ending() as ending:
        importlib.import_module("plugins")  # found now, before the current folder can be asked for it
        here = str(Path.cwd())
        if not {"", here} & set(sys.path):
            sys.path.append(here)
        return main()
    return ending.code


def module_options() -> list[str]:
    """What stands between ``python`` and ``-m core.COMMAND`` so that another process imports this same installation.

    ``-P`` keeps the current folder off the path; without an installation that folder is where ``core`` comes from.
    """
    return [] if Path.cwd() == ROOT else ["-P"]


def spoken(command: str) -> str:
    """How the user starts a command: as ``dualloop COMMAND`` where this process was started so."""
    return f"dualloop {command}" if Path(sys.argv[0]).stem == "dualloop" else f"python -m core.{command}"
