"""No module imports itself round a corner: also imports inside functions count, but not those for the type checker alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def modules() -> dict[str, Path]:
    """Name -> file of every module in ``core`` and ``plugins``."""
    files = [file for room in ("core", "plugins") for file in (ROOT / room).rglob("*.py") if "templates" not in file.parts]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imported(code: str) -> Iterator[str]:
    """What a module's text imports: ``package.module`` and ``package.module.name``."""
    tree = ast.parse(code)
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    unread = {id(inner) for guard in guards for statement in guard.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in unread:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import) and id(node) not in unread:
            yield from (alias.name for alias in node.names)


def circles(graph: dict[str, set[str]]) -> list[str]:
    """``a -> b -> a`` for each way round that is found."""
    found: list[str] = []
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> None:
        if module in way:
            found.append(" -> ".join([*way[way.index(module) :], module]))
        elif module not in done:
            for other in sorted(graph[module]):
                visit(other, [*way, module])
            done.add(module)

    for module in graph:
        visit(module, [])
    return found


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a -> b -> c -> a"]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_module_of_core_or_plugins_is_in_a_circle() -> None:
    files = modules()
    assert len(files) > 150
    graph = {}
    for name, file in files.items():
        named = set(imported(file.read_text(encoding="utf-8")))
        graph[name] = {one if one in files else one.rpartition(".")[0] for one in named} & set(files) - {name}
    assert circles(graph) == []
