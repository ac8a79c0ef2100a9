"""``dualloop COMMAND ...``: the same as ``python -m core.COMMAND ...``, from any folder."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import EntryPoint, entry_points, version

from core.installed.starting import started

COMMANDS = {
    "run": "check a recipe and run it",
    "check": "look at everything a run will need, before it",
    "convert": "write a run's checkpoint as a published folder",
    "evaluate": "measure a model: result card, intervals, ablation",
    "ask": "ask a model about a picture or a video",
    "demo": "ask a model on a page in the browser, before and after training",
    "compare": "show runs side by side in one HTML file",
    "experiment": "carry out variants of a recipe x seeds, evaluate, report",
    "dashboard": "make a W&B workspace and report for runs",
    "components": "list, explain, write and check components",
    "recipes": "list the recipes that come with dualloop, or copy one",
}
#: Entry points of this group are further commands: a function that takes the arguments and returns the exit code.
GROUP = "dualloop_commands"


def main(argv: list[str] | None = None) -> int:
    """Hands the arguments to the command's own module; returns its exit code."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    further = {point.name: point for point in entry_points(group=GROUP) if point.name not in COMMANDS}
    if name in ("-h", "--help"):
        lines = COMMANDS | {point.name: _about(point) for point in further.values()}
        print("usage: dualloop COMMAND ...\n\n" + "\n".join(f"  {command:<12} {text}" for command, text in lines.items()))
        print("\n  --version    print the version")
        return 0
    if name == "--version":
        print(f"dualloop {version('dualloop')}")
        return 0
    if name in further:
        try:
            command = further[name].load()
        except Exception as error:  # a package of somebody else's: whatever its import raises is its own fault
            print(f"error: the command {name!r} ({further[name].value}) cannot be loaded: {type(error).__name__}: {error}", file=sys.stderr)
            return 2
        return started(lambda: command(rest))
    if name not in COMMANDS:
        print(f"error: no command {name!r}: there are {', '.join([*COMMANDS, *further])}", file=sys.stderr)
        return 2
    return started(lambda: importlib.import_module(f"core.commands.{name}").main(rest))


def _about(point: EntryPoint) -> str:
    """What a further command does, in the first line of its description."""
    try:
        text = point.load().__doc__
    except Exception as error:  # one broken package must not take the help away
        return f"cannot be loaded: {type(error).__name__}: {error}"
    return (text or "").strip().split("\n")[0].rstrip(".")
