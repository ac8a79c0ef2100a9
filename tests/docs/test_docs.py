"""The documentation builds without a warning, and what it tells the reader to write is what the program takes."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from core.components import main
from core.contracts import KINDS, UserError
from core.recipe import check, load
from core.reference import components, reference
from core.registry import Registry

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CELL = re.compile(r"^\| (.+?) \| `([a-z_][\w.]*=.+)` \|$", re.MULTILINE)


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(site)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_site_builds_strictly_and_holds_every_component(tmp_path: Path) -> None:
    done = build(ROOT / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "site" / "reference" / "index.html").read_text()
    for entry in Registry().list():
        assert f"<code>{entry.name}</code>" in text, entry.name
    for kind in KINDS:
        page = (tmp_path / "site" / "write" / kind / "index.html").read_text()
        assert "<!-- example" not in page
        assert "class" in page
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=\"https?://", text), "loads something from elsewhere"


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[nothing](absent.md)")
    links = "validation: {links: {not_found: warn}}"
    (tmp_path / "mkdocs.yml").write_text(f"site_name: x\n{links}\n")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0
    assert "absent.md" in done.stdout + done.stderr


def test_every_kind_has_its_page_with_the_example_that_the_scaffold_writes() -> None:
    hooks = _hooks()
    assert sorted(path.stem for path in (ROOT / "docs" / "write").glob("*.md")) == sorted(KINDS)
    for kind in KINDS:
        text = hooks.written(kind, (ROOT / "docs" / "write" / f"{kind}.md").read_text())
        assert "<!--" not in text
        assert [language for language, _ in CODE.findall(text)] == ["python", "python", "yaml", "python"]
        for language, code in CODE.findall(text):
            if language == "python":
                compile(code, kind, "exec", dont_inherit=True)


def _hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_says_key_type_default_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reference"]) == 0
    text = capsys.readouterr().out
    assert text == reference(Registry())
    assert "| `accumulate` | `int >= 1` | `1` | micro-batches of a loop in an update |" in text
    assert "| `temperature` | `float` | `0.7` |" in text
    assert "| `lora.r` | `int` |" in text
    assert "``" not in text.replace("```", "")


def test_a_component_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()

    def broken(kind: str, name: str) -> None:
        raise UserError(f"{name} is broken")

    monkeypatch.setattr(registry, "get", broken)
    assert components(registry, "losses")[0] == "### `bce_dice`\n\nCannot be loaded: bce_dice is broken"


def test_every_key_of_the_migration_table_is_taken_by_the_big_recipe() -> None:
    rows = CELL.findall((ROOT / "docs" / "migration.md").read_text())
    flags = " ".join(flag for flag, _ in rows)
    for named in ("topk", "mask_ratio", "dam_beta", "max_caption_len", "save_interval", "disable_internal_eval"):
        assert f"--{named}" in flags
    assert len(rows) > 30
    for flag, override in rows:
        faults = check(load(ROOT / "recipes" / "dual_loop_8gpu.yaml", [override]), Registry())
        assert not faults, (flag, [str(fault) for fault in faults])
    assert check(load(ROOT / "recipes" / "dual_loop_8gpu.yaml", ["checkpoint.evry=1"]), Registry())  # it would be noticed


def commands(path: str) -> list[str]:
    """Command lines of the shell blocks, without comments."""
    blocks = [code for language, code in CODE.findall((ROOT / path).read_text()) if language == "bash"]
    return [" ".join(line.split("  #")[0].split()) for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize(
    ("translated", "original"), [("README.zh-CN.md", "README.md"), ("docs/getting-started.zh.md", "docs/getting-started.md")]
)
def test_the_chinese_text_has_the_english_commands(translated: str, original: str) -> None:
    told = commands(translated)
    assert len(told) > 9
    assert not [line for line in told if line not in commands(original)]


@pytest.mark.parametrize("path", ["README.md", "docs/getting-started.md", "docs/migration.md"])
def test_recipes_in_commands_are_taken_with_their_overrides(path: str) -> None:
    """Every ``core.run`` line but the one that shows a mistake."""
    seen = 0
    for line in commands(path):
        words = re.findall(r"(?:[^\s']|'[^']*')+", line)
        if words[1:3] != ["-m", "core.run"] or "--sweep" in words or "updats" in line:
            continue
        overrides = [word.replace("'", "") for word in words[4:] if "=" in word]
        faults = check(load(ROOT / words[3], overrides), Registry())
        assert not faults, (line, [str(fault) for fault in faults])
        seen += 1
    assert seen


def test_the_ten_lines_of_the_readme_are_a_gradient_op(tmp_path: Path) -> None:
    [code] = [code for language, code in CODE.findall((ROOT / "README.md").read_text()) if language == "python"]
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "test_mine.py").write_text(
        "from core.testing import GradientOpKit\nfrom mine import Half\n\n\n"
        "class TestHalf(GradientOpKit):\n    def make(self):\n        return Half(anchor='loop1')\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
