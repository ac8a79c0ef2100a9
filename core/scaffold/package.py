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
EXTRA = {"datasets": ', "numpy", "Pillow"', "models": ', "safetensors"'}  # dependencies of a kind's template, besides dualloop and torch


@dataclass(frozen=True)
class Body:
    """What differs from kind to kind: the component, its test, the recipe lines that use it."""

    code: str
    test: str
    usage: str


def contents(kind: str, name: str) -> tuple[str, Body]:
    """The module's name and what the package of this kind and name holds. Raises ``UserError`` for a bad name."""
    files, module = rendered(kind, name), _module(name)
    usage = _filled((TEMPLATES / kind / "usage.yaml").read_text(encoding="utf-8"), _words(kind, module, module))
    return module, Body(files[f"{module}/__init__.py"], files[f"tests/test_{module}.py"], usage)


def rendered(kind: str, name: str, entry: str | None = None) -> dict[str, str]:
    """The files of a package: path within its folder -> text. Raises ``UserError`` for a bad name.

    ``entry``: what recipes call the component (default: the module's name).
    """
    module = _module(name)
    words = _words(kind, module, entry or module)
    words["template_usage"] = _filled((TEMPLATES / kind / "usage.yaml").read_text(encoding="utf-8"), words).strip()
    sources = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        ".github/workflows/test.yml": "workflow.yml",
        ".gitignore": "gitignore",
        f"{module}/__init__.py": f"{kind}/component.py",
        f"tests/test_{module}.py": f"{kind}/test.py",
    }
    files = {path: _filled((TEMPLATES / source).read_text(encoding="utf-8"), words) for path, source in sources.items()}
    return files | {f"{module}/py.typed": ""}


def _filled(text: str, words: Mapping[str, str]) -> str:
    """The text with every placeholder replaced, in one pass: a name may contain another placeholder."""
    return re.sub("|".join(map(re.escape, words)), lambda found: words[found[0]], text)


def _module(name: str) -> str:
    module = re.sub(r"[-. ]+", "_", name).lower()
    if not re.fullmatch(r"[a-z][a-z0-9_]*", module) or keyword.iskeyword(module):
        raise UserError(f"{name!r} cannot be a package's name: write letters, digits and dashes, with a letter first")
    if module in sys.stdlib_module_names or module in ("core", "plugins", "tests", "torch", "numpy"):
        raise UserError(f"{name!r} would hide the module {module} that others import: choose another name")
    return module


def _words(kind: str, module: str, entry: str) -> dict[str, str]:
    """Placeholder -> its replacement."""
    singular = SINGULAR[kind].replace("_", " ")
    return {
        "template_name": module,
        "template-name": module.replace("_", "-"),
        "TemplateName": "".join(part.capitalize() for part in module.split("_")),
        "template_entry": entry,
        "template_kind": kind,
        "template_singular": singular,
        "template_article": "An" if singular[0] in "aeiou" else "A",
        "template_place": PLACES[kind],
        ', "template_extra"': EXTRA.get(kind, ""),
    }


def write(kind: str, name: str, into: Path, taken: Mapping[str, str]) -> Path:
    """Writes the package into the new folder ``into/NAME`` and returns it.

    ``taken``: the kind's names and the distributions that they belong to. Raises ``UserError`` for a bad, used or hiding name, for a
    used folder, and where nothing can be written; nothing is left behind then.
    """
    module, files = _module(name), rendered(kind, name)
    folder = into / module.replace("_", "-")
    if module in taken:
        raise UserError(f"{kind} have a {module!r} already, of {taken[module]}; recipes could not name either: choose another name")
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
