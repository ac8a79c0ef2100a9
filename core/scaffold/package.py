"""Writes a package of one's own with one component: installable, typed, with its test, README and CI file."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from core.contracts import UserError
from core.registry.kinds import PLACES, SINGULAR
from core.scaffold.bodies import BODIES

PYPROJECT = """\
[build-system]
requires = ["setuptools>=69"]
build-backend = "setuptools.build_meta"

[project]
name = "$distribution"
version = "0.1.0"
description = "$article $singular for dualloop."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["dualloop", "torch"$extra]  # pytest comes with dualloop

[project.optional-dependencies]
dev = ["ruff", "mypy"]

# The line that makes the component known. Left: the name in recipes; right: module and object.
[project.entry-points."dualloop.$kind"]
"$name" = "$module:$object"

[tool.setuptools]
packages = ["$module"]
[tool.setuptools.package-data]
$module = ["py.typed"]

[tool.ruff]
line-length = 140
target-version = "py311"
[tool.ruff.lint]
select = ["E", "F", "I", "UP", "B"]
[tool.ruff.lint.isort]
known-first-party = ["$module"]
known-third-party = ["core"]

[tool.mypy]
packages = ["$module"]
ignore_missing_imports = true

[tool.pytest.ini_options]
testpaths = ["tests"]
"""

README = """\
# $distribution

$article $singular for dualloop, found by the name `$name`. With dualloop installed:

```bash
pip install -e .
python -m core.components explain $kind/$name   # what it takes
pytest   # the contract kit of its kind
pip install -e ".[dev]" && ruff check . && mypy   # the linters, as its CI runs them
```

Use it in a recipe:

```yaml
$usage
```

or in place of what a recipe names, `python -m core.run RECIPE $place.use=$name`.

It starts as a minimal body that works: replace it in `$module/__init__.py`. The parameters of the constructor are the keys of
the recipe; give each a type. What the component must do is in `core/contracts.py` of dualloop, and the tests check it.
"""

WORKFLOW = """\
name: test
on: [push, pull_request]
jobs:
  test:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with: {python-version: "3.11"}
      # where dualloop is in no package index: - run: pip install "dualloop @ git+https://..."
      - run: pip install -e ".[dev]"
      - run: ruff check .
      - run: mypy
      - run: pytest
      - run: python -m core.components doctor
"""


@dataclass(frozen=True)
class Body:
    """What differs from kind to kind: the component, its test, the recipe lines that use it, further dependencies."""

    code: str
    test: str
    usage: str
    extra: str = ""


def contents(kind: str, name: str) -> tuple[str, Body]:
    """The module's name and what the package of this kind and name holds. Raises ``UserError`` for a bad name."""
    words = _words(kind, name)
    return words["module"], Body(*(Template(text).substitute(words) for text in BODIES[words["kind"]]))


def _words(kind: str, name: str) -> dict[str, str]:
    module = re.sub(r"[-. ]+", "_", name).lower()
    if not re.fullmatch(r"[a-z][a-z0-9_]*", module) or keyword.iskeyword(module):
        raise UserError(f"{name!r} cannot be a package's name: write letters, digits and dashes, with a letter first")
    if module in sys.stdlib_module_names or module in ("core", "plugins", "tests", "torch", "numpy"):
        raise UserError(f"{name!r} would hide the module {module} that others import: choose another name")
    singular = SINGULAR[kind].replace("_", " ")
    return {
        "kind": kind,
        "name": module,
        "module": module,
        "object": "".join(part.capitalize() for part in module.split("_")),
        "distribution": module.replace("_", "-"),
        "singular": singular,
        "place": PLACES[kind],
        "article": "An" if singular[0] in "aeiou" else "A",
    }


def write(kind: str, name: str, into: Path, taken: Mapping[str, str]) -> Path:
    """Writes the package into the new folder ``into/NAME`` and returns it.

    ``taken``: the kind's names and the distributions that they belong to. Raises ``UserError`` for a bad, used or hiding name, for a
    used folder, and where nothing can be written; nothing is left behind then.
    """
    words, (module, body) = _words(kind, name), contents(kind, name)
    folder = into / words["distribution"]
    if module in taken:
        raise UserError(f"{kind} have a {module!r} already, of {taken[module]}; recipes could not name either: choose another name")
    if _importable(module):
        raise UserError(f"{name!r} would hide the installed module {module}: choose another name")
    if folder.exists():
        raise UserError(f"{folder} exists already: choose another name or another --into")
    words |= {"usage": body.usage.strip(), "extra": body.extra}
    files = {
        "pyproject.toml": Template(PYPROJECT).substitute(words),
        "README.md": Template(README).substitute(words),
        ".github/workflows/test.yml": WORKFLOW,
        ".gitignore": "__pycache__/\n*.egg-info/\nbuild/\ndist/\n",
        f"{module}/__init__.py": body.code.lstrip(),
        f"{module}/py.typed": "",
        f"tests/test_{module}.py": body.test.lstrip(),
    }
    try:
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"{folder} cannot be written: {error.strerror}; choose another --into") from error
    return folder


def _importable(module: str) -> bool:
    """Whether another distribution has such a module; a mere folder of that name is none."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None
