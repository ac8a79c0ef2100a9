"""What the site makes itself: the start page from the README, with a picture and the main job's result; the recipe reference; and the
examples of the pages in write/.

A link that leads out of docs/ becomes plain text.

In those pages what stands between `<!-- example -->` and `<!-- /example -->` (and contract, test, recipe, installed) is made from the code:
the example is what `components new` writes for that kind, whose own tests are part of this project's tests. `python docs/_hooks.py`
writes it into the pages, so that they are whole in the repository too; a test compares.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from core.recipe.reference import components, contract, reference
from core.registry import Registry
from core.registry.kinds import SINGULAR
from core.scaffold import DOORS, contents

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: Any) -> Files:
    files.append(File.generated(config, "index.md", content=_start()))
    files.append(File.generated(config, "reference.md", content=reference(Registry())))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    folder, _, name = page.file.src_uri.removesuffix(".md").rpartition("/")
    if folder == "write":
        markdown = re.sub(r"<!-- .* -->\n", "", written(name, re.sub(r"^\*In the repository: .*\*\n\n", "", markdown, flags=re.MULTILINE)))
    markdown = re.sub(r"\[([^\]]+)\]\(\.\./[^)]+\)", r"\1", markdown)
    return sources(markdown) if name == "contracts" else markdown


def sources(markdown: str) -> str:
    """The page of contracts with the source of each of their modules."""
    code = {
        name: (ROOT / "core" / "contracts" / f"{name}.py").read_text(encoding="utf-8")
        for name in ("travel", "model", "results", "optional", "optional_data", "optional_models")
    }
    return re.sub(r"<!-- (\w+) -->", lambda found: f"```python\n{code[found[1]].strip()}\n```", markdown)


def written(kind: str, markdown: str) -> str:
    """The page of a kind with what is made from the code, between its marks."""
    name = f"my-{SINGULAR[kind].replace('_', '-')}"
    module, body = contents(kind, name)
    registry = Registry()
    parts = {
        "contract": f"```python\n{contract(kind)}\n```",
        "example": f"`{module}/__init__.py`, as `python -m core.components new {SINGULAR[kind]} {name}` writes it:\n\n"
        f"```python\n{body.code.strip()}\n```",
        "test": f"`tests/test_{module}.py`:\n\n```python\n{body.test.strip()}\n```",
        "recipe": f"```yaml\n{body.usage.strip()}\n```",
        "installed": "\n\n".join(components(registry, kind, "dualloop")),
    }
    parts |= {door: f"```python\n{contents(kind, name, door)[1].code.strip()}\n```" for door in DOORS[kind]}
    marks = re.compile(r"<!-- (\w+) -->\n(?:.*?\n<!-- /\1 -->\n)?", re.DOTALL)
    return marks.sub(lambda found: f"<!-- {found[1]} -->\n{parts[found[1]]}\n<!-- /{found[1]} -->\n", markdown)


def _start() -> str:
    """The README, after its first part a picture of the demo; what it links outside docs/ is named without a link."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    text = text.replace("](README.zh-CN.md)", "](getting-started.zh.md)")
    text = text.replace("\n## ", f"\n{_shown()}\n## ", 1)
    return re.sub(r"\[([^\]]+)\]\((?!https?://)(?![\w.-]+\.(?:md|png|jpg))[^)]+\)", r"\1", text)


def _shown() -> str:
    """The demo's picture."""
    return "[![The demo: two models are asked the same about a picture](demo.png)](demo.md)\n"


if __name__ == "__main__":
    for page in sorted((ROOT / "docs" / "write").glob("*.md")):
        page.write_text(written(page.stem, page.read_text(encoding="utf-8")), encoding="utf-8")
