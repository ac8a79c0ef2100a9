"""``python -m core.components``: what is installed, and what each component takes.

``list`` imports no component; ``explain`` imports the one module it explains; ``doctor`` and ``reference`` import all. ``new`` writes a
new package, or adds to one that exists.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from core.commands.printing import table
from core.contracts import KINDS
from core.installed.starting import spoken
from core.outside import Ending
from core.registry import Registry, UnknownName
from core.registry.described import sentence
from core.registry.doctor import examine
from core.registry.explain import explain, find
from core.registry.kinds import PLACES, PLURAL, SINGULAR
from core.scaffold import DOORS, add, write


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    with Ending() as ending:
        registry = Registry()
        if arguments.command == "list":
            _list(registry, PLURAL.get(arguments.kind, arguments.kind), arguments.json)
        elif arguments.command == "new":
            _new(registry, arguments.kind, arguments.name, arguments.into, arguments.door)
        elif arguments.command == "doctor":
            return _doctor(registry)
        elif arguments.command == "reference":
            from core.recipe.reference import reference  # the recipe's schema is not needed by the others

            print(reference(registry), end="")
        else:
            print(_explained(registry, arguments.name))
        return 0
    return ending.code


def _explained(registry: Registry, name: str) -> str:
    """The page of a component, or of a recipe's section."""
    try:
        return explain(find(registry, name))
    except UnknownName:
        from core.recipe.sections import section  # the recipe's schema is not needed by the others

        if page := section(name, spoken("components")):
            return page
        raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=spoken("components"), description="The components that recipes can use.")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="all components, or those of one kind, each with a sentence; imports none of them")
    listing.add_argument("kind", nargs="?", metavar="KIND", help="one of: " + ", ".join(KINDS))
    listing.add_argument("--json", action="store_true", help="print a JSON array of objects instead of a table")
    explaining = commands.add_parser(
        "explain", help="parameters, types, defaults, lines for a recipe, description and file of one component"
    )
    explaining.add_argument("name", metavar="NAME", help="a name, or KIND/NAME where several kinds share it, or KIND/./file.py:Object")
    new = commands.add_parser("new", help="write an installable package with a component of a kind, its test, README and CI file")
    new.add_argument("kind", metavar="KIND", help="e.g. gradient_op; one of: " + ", ".join(SINGULAR.values()))
    new.add_argument("name", metavar="NAME", help="e.g. my-surgery; recipes then write use: my_surgery")
    into = "where the package's folder is made, default: here; or the folder of a package, with its pyproject.toml, to which it is added"
    new.add_argument("--into", type=Path, metavar="FOLDER", help=into)
    doors = "; ".join(f"{SINGULAR[kind]}: {', '.join(names).replace('_', '-')}" for kind, names in DOORS.items() if names)
    new.add_argument("--with", dest="door", metavar="WHAT", help=f"start from a component that also has this ({doors})")
    commands.add_parser("reference", help="all keys of a recipe as Markdown, those of the installed components included")
    commands.add_parser("doctor", help="load everything; list broken plugins, stale installs and name clashes with their remedies")
    return parser


def _new(registry: Registry, kind: str, name: str, into: Path | None, door: str | None) -> None:
    kind = PLURAL.get(kind, kind)
    taken = {entry.name: f"{entry.distribution} {entry.version}" for entry in registry.list(kind)}
    if into is not None and (into / "pyproject.toml").is_file():
        added = add(kind, name, into, taken, door)
        print(f"added {kind}/{added.name} to {into}:", *added.files, sep="\n  ")
        if added.missing:
            print(f"its dependencies lack {', '.join(added.missing)}: add them to pyproject.toml")
        folder, entry = into, added.name
    else:
        folder = write(kind, name, into or Path(), taken, door)
        entry = folder.name.replace("-", "_")
        print(f"wrote {folder}; now:")
    print(f"  cd {folder}\n  pip install -e .\n  pytest\n  python -m core.components list {kind}")
    print(f"  python -m core.run RECIPE {PLACES[kind]}.use={entry}")


def _doctor(registry: Registry) -> int:
    """Prints the findings; 1 where something is broken."""
    findings = examine(registry)
    for finding in findings:
        print(finding)
    broken = sum(finding.broken for finding in findings)
    clashes = len(findings) - broken
    print(f"{len(registry.list())} components, {broken} fault{'s' * (broken != 1)}, {clashes} name clash{'es' * (clashes != 1)}")
    return 1 if broken else 0


def _list(registry: Registry, kind: str | None, as_json: bool) -> None:
    entries = registry.list(kind)
    if as_json:
        print(json.dumps([asdict(entry) for entry in entries], indent=2))
        return
    table(("kind", "name", "distribution", "what"), [(e.kind, e.name, f"{e.distribution} {e.version}", sentence(e)) for e in entries])
    for stray in registry.strays():
        print(f"warning: {stray}", file=sys.stderr)
