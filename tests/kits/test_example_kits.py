"""The example packages' own tests: their kit classes, collected here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.glob("*/tests/test_*.py"))

for file in FILES:
    sys.path.append(str(file.parents[1]))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    globals().update({name: value for name, value in vars(module).items() if name.lower().startswith("test")})


def test_every_example_has_tests() -> None:
    assert {file.parents[1] for file in FILES} == {path.parent for path in EXAMPLES.glob("*/pyproject.toml")}
