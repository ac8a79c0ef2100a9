"""Writes a package of one's own with one component: installable, typed, with its test, README and CI file.

The files in ``templates/`` are what is written, but for the placeholders in them (``template_name`` and the like). So they are real
Python and real TOML, which the linter, the type checker and the tests read as they are.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core.contracts import UserError
from core.registry.kinds import PLACES, SINGULAR

TEMPLATES = Path(__file__).with_name("templates")

#: kind -> what a component of it may offer beyond its contract: ``--with DOOR`` writes the body of that folder.
DOORS: dict[str, tuple[str, ...]] = {
    kind: tuple(sorted(path.name for path in (TEMPLATES / kind).iterdir() if (path / "component.py").is_file())) for kind in PLACES
}
EXTRA = {"datasets": ', "numpy", "Pillow"', "models": ', "safetensors"'}  # dependencies of a kind's template, besides dualloop and torch


@dataclass(frozen=True)
class Body:
    """What differs from kind to kind: the component, its test, the recipe lines that use it."""

    code: str
    test: str
    usage: str


def contents(kind: str, name: str, door: str | None = None) -> tuple[str, Body]:
    """The module's name and what the package of this kind and name holds. Raises ``UserError`` for a bad name."""
    module = _module(name)
    return module, body(kind, module, door)


def body(kind: str, module: str, door: str | None = None, package: str | None = None) -> Body:
    """The component ``module`` of a kind, as a package of its own or as a module of ``package``."""
    code, test, usage = (_template(kind, file, door) for file in ("component.py", "test.py", "usage.yaml"))
    if package is not None:
        test = test.replace("from template_name import", f"from {package}.template_name import")
    words = _words(kind, module, module)
    return Body(_filled(code, words), _filled(test, words), _filled(usage, words))


def rendered(kind: str, name: str, entry: str | None = None, door: str | None = None) -> dict[str, str]:
    """The files of a package: path within its folder -> text. Raises ``UserError`` for a bad name or a door that the kind has not.

    ``entry``: what recipes call the component (default: the module's name). ``door``: one of ``DOORS[kind]``, with dashes or not.
    """
    module = _module(name)
    words = _words(kind, module, entry or module)
    words["template_usage"] = _filled(_template(kind, "usage.yaml", door), words).strip()
    sources = {"pyproject.toml": "pyproject.toml", "README.md": "README.md"}
    sources |= {".github/workflows/test.yml": "workflow.yml", ".gitignore": "gitignore"}
    files = {path: _filled((TEMPLATES / source).read_text(encoding="utf-8"), words) for path, source in sources.items()}
    component = body(kind, module, door)
    return files | {f"{module}/__init__.py": component.code, f"tests/test_{module}.py": component.test, f"{module}/py.typed": ""}


def _template(kind: str, file: str, door: str | None) -> str:
    """A file of the kind, or of one of its doors; a door that has no such file has the kind's."""
    folder = TEMPLATES / kind
    if door is not None:
        name = door.replace("-", "_")
        if name not in DOORS[kind]:
            known = " or ".join(one.replace("_", "-") for one in DOORS[kind])
            raise UserError(f"{kind} have no --with {door}" + (f": write --with {known}" if known else "; leave it out"))
        folder = folder / name if (folder / name / file).is_file() else folder
    return (folder / file).read_text(encoding="utf-8")


def _filled(text: str, words: Mapping[str, str]) -> str:
    """The text with every placeholder replaced, in one pass: a name may contain another placeholder."""
    return re.sub("|".join(map(re.escape, words)), lambda found: words[found[0]], text)


def module_name(name: str) -> str:
    """As Python can import it. Raises ``UserError`` for a name of which none can be made."""
    module = re.sub(r"[-. ]+", "_", name).lower()
    if not re.fullmatch(r"[a-z][a-z0-9_]*", module) or keyword.iskeyword(module):
        raise UserError(f"{name!r} cannot be a package's name: write letters, digits and dashes, with a letter first")
    return module


def needed(kind: str) -> list[str]:
    """The distributions that a kind's template imports."""
    return ["dualloop", "torch", *re.findall(r"[\w-]+", EXTRA.get(kind, ""))]


def _module(name: str) -> str:
    module = module_name(name)
    if module in sys.stdlib_module_names or module in ("core", "plugins", "tests", "torch", "numpy"):
        raise UserError(f"{name!r} would hide the module {module} that others import: choose another name")
    return module


def class_name(module: str) -> str:
    return "".join(part.capitalize() for part in module.split("_"))


def check_free(kind: str, module: str, taken: Mapping[str, str]) -> None:
    """Raises ``UserError`` where another distribution has a component of this name."""
    if module in taken:
        raise UserError(f"{kind} have a {module!r} already, of {taken[module]}; recipes could not name either: choose another name")


def _words(kind: str, module: str, entry: str) -> dict[str, str]:
    """Placeholder -> its replacement."""
    singular = SINGULAR[kind].replace("_", " ")
    return {
        "template_name": module,
        "template-name": module.replace("_", "-"),
        "TemplateName": class_name(module),
        "template_entry": entry,
        "template_kind": kind,
        "template_singular": singular,
        "template_article": "An" if singular[0] in "aeiou" else "A",
        "template_place": PLACES[kind],
        ', "template_extra"': EXTRA.get(kind, ""),
    }


def write(kind: str, name: str, into: Path, taken: Mapping[str, str], door: str | None = None) -> Path:
    """Writes the package into the new folder ``into/NAME`` and returns it.

    ``taken``: the kind's names and the distributions that they belong to. Raises ``UserError`` for a bad, used or hiding name, for a
    used folder, and where nothing can be written; nothing is left behind then.
    """
    module, files = _module(name), rendered(kind, name, door=door)
    folder = into / module.replace("_", "-")
    check_free(kind, module, taken)
    if _importable(module):
        raise UserError(f"{name!r} would hide the installed module {module}: choose another name")
    if folder.exists():
        raise UserError(f"{folder} exists already: choose another name or another --into")
    try:
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"{folder} cannot be written: {error.strerror}; choose another --into") from error
    return folder


def _importable(module: str) -> bool:
    """Whether another distribution has such a module; a folder of that name is not a module."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None
