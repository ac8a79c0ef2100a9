"""What a component does, in a sentence: read from its source file, without importing it."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

from core.registry.registry import Entry


def sentence(entry: Entry) -> str:
    """The first sentence about the component: its module's, or its own where the module holds several; empty where none is found."""
    module, _, name = entry.target.partition(":")
    file = _source(module)
    if file is None:
        return ""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):  # ``doctor`` is the one who says what is wrong with a component
        return ""
    components = [node for node in _defined(tree) if not node.name.startswith("_")]
    own = [ast.get_docstring(node) or "" for node in components if node.name == name.partition(".")[0]]
    whole = ast.get_docstring(tree) or ""
    texts = [*own, whole] if sum(isinstance(node, ast.FunctionDef) for node in components) > 1 else [whole, *own]
    return next((first_sentence(text) for text in texts if text), "")


def first_sentence(text: str) -> str:
    """Of a docstring, on one line and without marks."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    return re.split(r"(?<=[^.\s][.:])(?<!e\.g\.)(?<!i\.e\.)\s+(?=[A-Z`\"'(])|\.$", paragraph, maxsplit=1)[0].rstrip(".:").replace("``", "")


def said_of(name: str, text: str) -> str:
    """The first sentence that a docstring has about a parameter, written ``name: ...``; empty where there is none."""
    found = re.search(rf"(?<![\w.'\"-])`{{0,2}}{re.escape(name)}`{{0,2}}: (.+?)(?=\.\s+`{{0,2}}\w+`{{0,2}}: |\n\s*\n|\Z)", text, re.DOTALL)
    return first_sentence(found[1]) if found else ""


def _defined(tree: ast.Module) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    yield from (node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef))


def _source(module: str) -> Path | None:
    """The file of a module. Its packages are not imported: their ``__init__`` may load anything."""
    top, *inner = module.split(".")
    spec: ModuleSpec | None = importlib.util.find_spec(top)
    if spec is None:
        return None
    if not inner:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in map(Path, spec.submodule_search_locations or ()):
        place = folder.joinpath(*inner)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return file
    return None
