"""Every built-in component is made by a test class that subclasses the contract kit of its kind."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import core.testing
from core.registry import Registry

TESTS = Path(__file__).parents[1]
#: Name of a kit -> the kind it belongs to.
KITS = {name: getattr(core.testing, name).__module__.rpartition(".")[2] for name in core.testing.__all__ if name.endswith("Kit")}


def imported(tree: ast.Module) -> dict[str, str]:
    """Local name -> ``module:object`` or, of a module, its dotted name; imports inside functions too."""
    lines = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: f"{line.module}:{alias.name}" for line in lines for alias in line.names}


def made_under_a_kit(text: str) -> Iterator[tuple[str, str]]:
    """(kind, ``module:object``) of what the ``make`` methods of a file's kit tests name."""
    tree = ast.parse(text)
    names, kinds = imported(tree), dict(KITS)
    for one in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        kind = next((kinds[base.id] for base in one.bases if isinstance(base, ast.Name) and base.id in kinds), None)
        if kind is None:
            continue
        kinds[one.name] = kind
        for make in (item for item in one.body if isinstance(item, ast.FunctionDef) and item.name == "make"):
            for node in ast.walk(make):
                if isinstance(node, ast.Name) and node.id in names:
                    yield kind, names[node.id]
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
                    yield kind, f"{names[node.value.id].replace(':', '.')}:{node.attr}"


def test_every_built_in_component_has_a_kit_test() -> None:
    found = {pair for file in TESTS.rglob("test_*.py") for pair in made_under_a_kit(file.read_text(encoding="utf-8"))}
    ours = [entry for entry in Registry().list() if entry.distribution == "dualloop"]
    assert len(ours) > 40
    assert [str(entry) for entry in ours if (entry.kind, entry.target) not in found] == []


def test_only_what_a_kit_of_its_kind_makes_counts() -> None:
    text = """
from core.testing import SamplerKit, LoopKit
from plugins.samplers.soft import Soft
from plugins.samplers.other import Other
class Mine(SamplerKit): ...
class TestSoft(Mine):
    def make(self): return Soft()
class TestOther:
    def make(self): return Other()
"""
    assert set(made_under_a_kit(text)) == {("samplers", "plugins.samplers.soft:Soft")}
