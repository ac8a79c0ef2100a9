"""``dualloop COMMAND ...``: the same as ``python -m core.COMMAND ...``, from any folder."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import version

from core.installed.starting import started

COMMANDS = {
    "run": "check a recipe and run it",
    "check": "look at everything a run will need, before it",
    "convert": "write a run's checkpoint as a published folder",
    "evaluate": "measure a model: result card, intervals, ablation",
    "compare": "show runs side by side in one HTML file",
    "dashboard": "make a W&B workspace and report for runs",
    "components": "list, explain, write and check components",
    "recipes": "list the recipes that come with dualloop, or copy one",
    "world": "write the synthetic world that the small recipes train on",
}


def main(argv: list[str] | None = None) -> int:
    """Hands the arguments to the command's own module; returns its exit code."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print("usage: dualloop COMMAND ...\n\n" + "\n".join(f"  {command:<12} {text}" for command, text in COMMANDS.items()))
        print("\n  --version    print the version")
        return 0
    if name == "--version":
        print(f"dualloop {version('dualloop')}")
        return 0
    if name not in COMMANDS:
        print(f"error: no command {name!r}: there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return started(lambda: importlib.import_module(f"core.commands.{name}").main(rest))
