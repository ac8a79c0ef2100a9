"""Adds a component to a package that exists: its module, its test, its line among the entry points, its lines in the README.

``pyproject.toml`` is edited as text, so that comments and layout stay; what the edited text then says is compared with what it should.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.contracts import UserError
from core.scaffold.package import body, check_free, class_name, module_name, needed

ENTRY_POINTS = "entry-points"
HEADER = re.compile(rf"""\s*\[\s*project\s*\.\s*{ENTRY_POINTS}\s*\.\s*["']([^"']+)["']\s*\]\s*(?:#.*)?$""")


@dataclass(frozen=True)
class Added:
    """What was written into a package, and which of the component's dependencies its ``pyproject.toml`` does not name."""

    name: str
    files: list[Path]
    missing: list[str]


def add(kind: str, name: str, folder: Path, taken: Mapping[str, str], door: str | None = None) -> Added:
    """Adds a component to the package in ``folder``, whose ``pyproject.toml`` has a ``[project]`` table.

    ``taken``: the kind's names and the distributions that they belong to. Raises ``UserError`` for a bad or used name, for files that
    are there already, and for a ``pyproject.toml`` that cannot be edited; the folder is then as it was.
    """
    project = folder / "pyproject.toml"
    text = _text(project)
    package = _package(folder, _parsed(text, project))
    module = module_name(name)
    check_free(kind, module, taken)
    made = body(kind, module, door, package.name)
    edited = with_entry_point(text, project, f"dualloop.{kind}", module, f"{package.name}.{module}:{class_name(module)}")
    readme = folder / "README.md"
    writes = {package / f"{module}.py": made.code, folder / "tests" / f"test_{module}.py": made.test}
    for path in writes:
        if path.exists():
            raise UserError(f"{path} exists already: choose another name")
    changes = {project: edited}
    if readme.is_file():
        usage = f"\n\n## {module}\n\n```yaml\n{made.usage.strip()}\n```\n"
        changes[readme] = _text(readme).rstrip() + usage.replace("\n", _line_end(_text(readme)))
    _write_all(writes, changes)
    wanted = {re.split(r"[^\w.-]", one)[0].lower() for one in _parsed(edited, project)["project"].get("dependencies", [])}
    return Added(module, [*writes, *changes], [one for one in needed(kind) if one.lower() not in wanted])


def _text(path: Path) -> str:
    """With the line ends that the file has."""
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error


def _line_end(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _parsed(text: str, project: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{project} is not TOML: {error}") from error
    if not isinstance(found.get("project"), dict):
        raise UserError(
            f"{project} has no [project] table, where a package's entry points stand: leave out --into for a package of its own"
        )
    if ENTRY_POINTS in found["project"].get("dynamic", []):
        raise UserError(f"{project} leaves its entry points to the build (project.dynamic): they must stand in the file itself")
    return found


def _package(folder: Path, project: Mapping[str, Any]) -> Path:
    """The folder of the distribution's one import package."""
    found = sorted(file.parent for base in (folder, folder / "src") for file in base.glob("*/__init__.py") if file.parent.name != "tests")
    own = [path for path in found if path.name == re.sub(r"[-.]+", "_", str(project["project"].get("name", ""))).lower()]
    if len(own or found) == 1:
        return (own or found)[0]
    names = ", ".join(str(path.relative_to(folder)) for path in found) or "none"
    raise UserError(f"{folder} must have one folder with an __init__.py, of the project's name where there are several; found: {names}")


def with_entry_point(text: str, project: Path, group: str, name: str, target: str) -> str:
    """``pyproject.toml`` with one line more in the group, made where it is not there; nothing else is changed.

    Raises ``UserError`` where the name is there, or where the text holds its entry points in another form.
    """
    before = _parsed(text, project)
    groups = before["project"].get(ENTRY_POINTS, {})
    if name in groups.get(group, {}):
        raise UserError(f"{project} has {name!r} in {group} already: choose another name")
    wanted = copy.deepcopy(before)
    wanted["project"].setdefault(ENTRY_POINTS, {}).setdefault(group, {})[name] = target
    edited = _inserted(text, group, f'"{name}" = "{target}"')
    try:
        done = tomllib.loads(edited) == wanted
    except tomllib.TOMLDecodeError:
        done = False
    if not done:
        line = f'{name} = "{target}"'
        raise UserError(f"{project} has its entry points in another form, which is not edited; add to the group {group} yourself: {line}")
    return edited


def _inserted(text: str, group: str, line: str) -> str:
    """With the line at the end of the group's table, or with a new table behind the other groups, or at the end."""
    end = _line_end(text)
    lines = [one + "\n" for one in text.split("\n")]  # with their own line ends; splitlines() would also split at other signs
    lines[-1] = lines[-1][:-1] + end if lines[-1] != "\n" else ""
    tables = [(at, found[1]) for at, one in enumerate(lines) if (found := HEADER.match(one.rstrip()))]
    own = [at for at, name in tables if name == group]
    last = own[0] if own else tables[-1][0] if tables else len(lines) - 1
    for at in range(last + 1, len(lines)):
        if lines[at].lstrip().startswith("["):
            break
        if lines[at].strip() and not lines[at].lstrip().startswith("#"):
            last = at
    new = line + end if own else f'{end}[project.{ENTRY_POINTS}."{group}"]{end}{line}{end}'
    return "".join([*lines[: last + 1], new, *lines[last + 1 :]])


def _write_all(new: Mapping[Path, str], changed: Mapping[Path, str]) -> None:
    """Writes all of it, or puts everything back."""
    kept = {path: path.read_bytes() for path in changed}
    made: list[Path] = []
    try:
        for path, text in new.items():
            if not path.parent.is_dir():
                path.parent.mkdir()
                made.append(path.parent)
            with path.open("x", encoding="utf-8") as file:
                made.append(path)
                file.write(text)
        for path, text in changed.items():
            path.write_bytes(text.encode("utf-8"))
    except OSError as error:
        for path, old in kept.items():
            if path.read_bytes() != old:
                path.write_bytes(old)
        for path in reversed(made):
            path.rmdir() if path.is_dir() else path.unlink()
        raise UserError(f"{error.filename or path} cannot be written: {error.strerror}; nothing was added") from error
