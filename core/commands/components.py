"""``python -m core.components``: what is installed, and what each component takes.

``list`` reads metadata only; ``explain`` imports the one module it explains; ``doctor`` and ``reference`` import all. ``new`` writes a
package of one's own.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from core.commands.cli import printing
from core.contracts import KINDS, UserError
from core.registry import AmbiguousName, Component, Registry, UnknownName, is_local
from core.registry.doctor import examine
from core.registry.offers import offers_of, wanted
from core.registry.signature import OMITTED, Parameter, record_fields, type_name
from core.scaffold import PLURAL, SINGULAR, write
from core.scaffold.bodies import PLACES


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    code = 0
    try:
        with printing():
            registry = Registry()
            if arguments.command == "list":
                _list(registry, PLURAL.get(arguments.kind, arguments.kind), arguments.json)
            elif arguments.command == "new":
                _new(registry, arguments.kind, arguments.name, arguments.into)
            elif arguments.command == "doctor":
                code = _doctor(registry)
            elif arguments.command == "reference":
                from core.recipe.reference import reference  # the recipe's schema is not needed by the others

                print(reference(registry), end="")
            else:
                print(explain(find(registry, arguments.name)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m core.components", description="The components that recipes can use.")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="names of all components, or of one kind; imports none of them")
    listing.add_argument("kind", nargs="?", metavar="KIND", help="one of: " + ", ".join(KINDS))
    listing.add_argument("--json", action="store_true", help="print a JSON array of objects instead of a table")
    explaining = commands.add_parser("explain", help="parameters, types, defaults, description and file of one component")
    explaining.add_argument("name", metavar="NAME", help="a name, or KIND/NAME where several kinds share it, or KIND/./file.py:Object")
    new = commands.add_parser("new", help="write an installable package with a component of a kind, its test, README and CI file")
    new.add_argument("kind", metavar="KIND", help="e.g. gradient_op; one of: " + ", ".join(SINGULAR.values()))
    new.add_argument("name", metavar="NAME", help="e.g. my-surgery; recipes then write use: my_surgery")
    new.add_argument("--into", type=Path, default=Path(), metavar="FOLDER", help="where the package's folder is made; default: here")
    commands.add_parser("reference", help="all keys of a recipe as Markdown, those of the installed components included")
    commands.add_parser("doctor", help="load everything; list broken plugins, stale installs and name clashes with their remedies")
    return parser


def _new(registry: Registry, kind: str, name: str, into: Path) -> None:
    kind = PLURAL.get(kind, kind)
    folder = write(kind, name, into, {entry.name: f"{entry.distribution} {entry.version}" for entry in registry.list(kind)})
    print(f"wrote {folder}; now:\n  cd {folder}\n  pip install -e .\n  pytest\n  python -m core.components list {kind}")
    print(f"  python -m core.run RECIPE {PLACES[kind]}.use={folder.name.replace('-', '_')}")


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
    table(("kind", "name", "distribution", "object"), [(e.kind, e.name, f"{e.distribution} {e.version}", e.target) for e in entries])
    for stray in registry.strays():
        print(f"warning: {stray}", file=sys.stderr)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Prints rows: drawn on a terminal, as plain aligned columns elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        drawn = Table(*head)
        for row in rows:
            drawn.add_row(*row)
        Console(markup=False).print(drawn)
        return
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def find(registry: Registry, text: str) -> Component:
    """The component that ``NAME``, ``DISTRIBUTION/NAME`` or ``KIND/NAME`` means; raises ``UserError``."""
    kind, _, name = text.partition("/")
    kind = PLURAL.get(kind, kind)
    if kind in KINDS and name:
        return registry.get(kind, name)
    if is_local(text):
        raise UserError(f"write KIND/{text}: a local object does not tell its kind")
    kinds = sorted({e.kind for e in registry.list() if e.name == text.rpartition("/")[2]})
    if len(kinds) > 1:
        raise AmbiguousName(f"{text!r} is a name in several kinds: write " + " or ".join(f"{k}/{text}" for k in kinds))
    if kinds:
        return registry.get(kinds[0], text)
    near = difflib.get_close_matches(text, sorted({e.name for e in registry.list()}), n=3, cutoff=0.5)
    raise UnknownName(f"no component {text!r}" + (f": did you mean {' or '.join(near)}?" if near else ": 'list' shows all"))


def explain(component: Component) -> str:
    """The component's page: what it is, its recipe keys, its description, where it lives."""
    entry = component.entry
    lines = [
        f"{entry.kind}/{entry.name}",
        f"  distribution  {entry.distribution} {entry.version}".rstrip(),
        f"  object        {entry.target}",
        f"  file          {_place(component)}",
    ]
    lines.append("  parameters" if component.parameters else "  parameters    none")
    lines += _parameters(component.parameters, "    ")
    lines += _offers(component)
    if text := inspect.getdoc(component.object):
        lines += ["", *(f"  {line}".rstrip() for line in text.splitlines())]
    return "\n".join(lines)


def _parameters(keys: tuple[Parameter, ...], indent: str) -> list[str]:
    """A line for each key; the keys of nested records stand below theirs."""
    width = max((len(key.name) for key in keys), default=0)
    lines = []
    for key in keys:
        default = "required" if key.required else "optional" if key.default is OMITTED else f"default {key.default!r}"
        lines.append(f"{indent}{key.name.ljust(width)}  {type_name(key.type)}, {default}")
        lines += _parameters(record_fields(key.type), indent + "  ")
    return lines


def _offers(component: Component) -> list[str]:
    """What it has of that which components of its kind may offer beyond their contract."""
    offered = offers_of(component.object, component.entry.kind)
    lines = []
    for word, state in (("offers", True), ("may offer", None), ("offers not", False)):
        if names := [f"{', '.join(wanted(protocol))} ({protocol.__name__})" for protocol, has in offered.items() if has is state]:
            lines += [f"  {word}" + (", known once it is built" if state is None else ""), *(f"    {name}" for name in names)]
    return lines


def _place(component: Component) -> str:
    try:
        return f"{inspect.getsourcefile(component.object)}:{inspect.getsourcelines(component.object)[1]}"
    except (TypeError, OSError):  # not written in Python
        return "unknown"


if __name__ == "__main__":
    raise SystemExit(main())
