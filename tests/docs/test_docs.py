"""The documentation builds without a warning, and what it tells the reader to write is what the program takes."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from core.commands.cli import GROUP
from core.commands.components import main
from core.commands.sweep import points
from core.contracts import KINDS, UserError
from core.installed.shipped import recipe_names
from core.recipe import check, load
from core.recipe.reference import components, reference
from core.registry import Component, Registry, is_local
from core.registry.signature import parameters
from core.scaffold import contents
from tests.engine.children import Command
from tests.patience import HANGS_S

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
        text = (ROOT / "docs" / "write" / f"{kind}.md").read_text()
        assert text == hooks.written(kind, text), f"docs/write/{kind}.md is not what the code says: python docs/_hooks.py"
        languages = [language for language, _ in CODE.findall(text)]
        assert languages[:3] == ["python", "python", "yaml"], "the example, its test, its lines of a recipe"
        assert languages[-1] == "python", "the contract"
        for language, code in CODE.findall(text):
            if language == "python":
                compile(code, kind, "exec", dont_inherit=True)


@pytest.mark.parametrize("kind", KINDS)
def test_the_recipe_lines_of_a_kinds_page_are_what_its_example_takes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, body = contents(kind, "my-own")
    made = ModuleType(module)
    monkeypatch.setitem(sys.modules, module, made)  # annotations are looked up there
    exec(compile(body.code, module, "exec"), vars(made))
    [own] = [mapping for mapping in components_in(yaml.safe_load(body.usage)) if mapping["use"] == module]
    known = parameters(made.MyOwn)
    not_its_own = {"use", "data"} if kind == "loops" else {"use"}  # a task's data are the engine's
    assert set(own) - not_its_own <= {key.name for key in known}
    assert {key.name for key in known if key.required} <= set(own)


def test_the_pages_that_the_site_fills_say_where_it_is_in_the_repository() -> None:
    for page in (*(ROOT / "docs" / "write").glob("*.md"), ROOT / "docs" / "contracts.md"):
        text = page.read_text()
        assert "*In the repository: [" in text, page
        for link in re.findall(r"\]\(((?:\.\./)[^)#]+)\)", text):
            assert (page.parent / link).exists(), (page, link)
    text = _hooks().sources((ROOT / "docs" / "contracts.md").read_text())
    assert "<!--" not in text
    for name in (
        "class Region:",
        "class RegionBatch:",
        "class Gram:",
        "class Noise(Protocol):",
        "class Sample(Picture):",
        "class WithinBatch(",
    ):
        assert name in text


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
    assert "| `temperature` | `float > 0` | `0.7` |" in text
    assert "| `lora.r` | `int >= 1` |" in text
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


TEXTS = [str(path.relative_to(ROOT)) for path in (*ROOT.glob("README*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md"))]


def commands(path: str) -> list[str]:
    """Command lines of the shell blocks, without comments."""
    blocks = [code.replace("\\\n", "") for language, code in CODE.findall((ROOT / path).read_text()) if language == "bash"]
    lines = [line for block in blocks for line in block.splitlines() if line.strip() and not line.startswith("#")]
    return [" ".join(re.split(r"\s+# ", line)[0].split()) for line in lines]


class Parsed(Exception):
    """Raised in place of what a command would go on to do."""


@pytest.mark.parametrize("path", TEXTS)
def test_every_command_is_one_that_the_program_takes(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those inside sentences; whole recipes with their overrides and sweeps are checked as `core.run` checks them."""

    def stopped(real: Callable[..., argparse.Namespace]) -> Callable[..., None]:
        def parse(parser: argparse.ArgumentParser, words: list[str]) -> None:
            raise Parsed(real(parser, words))

        return parse

    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, stopped(getattr(argparse.ArgumentParser, name)))
    further = {point.name: point.module.removesuffix(".__main__") for point in entry_points(group=GROUP)}
    inside = re.findall(r"`((?:python -m (?:core|plugins)|dualloop [a-z])[^`]+)`", (ROOT / path).read_text())
    for line in [*commands(path), *inside]:
        line = re.sub(r"^dualloop (\w+)", lambda found: f"python -m {further.get(found[1], f'core.{found[1]}')}", line)
        found = re.search(r"-m ((?:core|plugins)[\w.]*)(.*)", line)
        if found is None:
            continue
        module = importlib.import_module(found[1])
        if module.__name__.startswith("plugins") and not hasattr(module, "main"):
            module = importlib.import_module(f"{found[1]}.__main__")
        with pytest.raises(Parsed) as caught:
            module.main([word for word in shlex.split(found[2]) if word != "..."])
        given = caught.value.args[0]
        if getattr(given, "use", None):
            Registry().get("evaluators", given.use)
            Registry().get("datasets", given.data)
        named = getattr(given, "recipe", None) in recipe_names()
        if module.__name__ == "core.run" and (named or Path(given.recipe or "").suffix == ".yaml"):
            given.recipe = given.recipe if named else ROOT / given.recipe
            if given.sweep:
                points(str(given.recipe), given.overrides, given.sweep, Registry())
            elif "updats" not in line and "damped_conflict" not in line:  # shown as a mistake; installed in tests/core/test_examples.py
                faults = check(load(given.recipe, given.overrides), Registry())
                assert not faults, (line, [str(fault) for fault in faults])


def components_in(value: Any) -> Iterator[Mapping[str, Any]]:
    """The mappings with ``use`` inside a piece of a recipe."""
    if isinstance(value, Mapping):
        if "use" in value:
            yield value
        for inner in value.values():
            yield from components_in(inner)


#: Keys that stand among a component's own but are the engine's.
ENGINES = {"datasets": {"weight"}, "loops": {"data"}, "gradient_ops": {"by", "own_weights"}}


@pytest.mark.parametrize("path", TEXTS)
def test_every_piece_of_a_recipe_names_components_with_their_keys(path: str) -> None:
    text = re.sub(
        r"<!-- (\w+) -->.*?<!-- /\1 -->", "", (ROOT / path).read_text(), flags=re.DOTALL
    )  # made from the code, which has its tests
    pieces = [code for language, code in CODE.findall(text) if language == "yaml"]
    pieces += re.findall(r"`(\w+: \{.*?\})`", text, re.DOTALL)
    for piece in pieces:
        for mapping in components_in(yaml.safe_load(piece)):
            name, keys = mapping["use"], set(mapping) - {"use", "..."}
            kinds = [entry.kind for entry in Registry().list() if entry.name == name]
            if not (path.startswith("examples") or is_local(name)):
                assert kinds, (piece, f"no component {name}")
            found: list[Component] = [Registry().get(kind, name) for kind in kinds]
            taken = [{key.name for key in one.parameters} | ENGINES.get(one.entry.kind, set()) for one in found]
            assert not found or any(keys <= names for names in taken), (piece, keys)


@pytest.mark.parametrize(
    ("translated", "original"), [("README.zh-CN.md", "README.md"), ("docs/getting-started.zh.md", "docs/getting-started.md")]
)
def test_the_chinese_text_has_the_english_commands(translated: str, original: str) -> None:
    told = commands(translated)
    assert len(told) > 9
    assert told == commands(original)
    links = [set(re.findall(r"\]\((?:docs/)?([\w.-]+\.md|recipes/\S+)\)", (ROOT / path).read_text())) for path in (translated, original)]
    assert {link for link in links[1] if ".zh" not in link and link != "getting-started.md"} <= links[0]


def test_the_python_of_the_readme_and_of_the_page_on_plugins_runs(tmp_path: Path) -> None:
    """The ten lines are a gradient op; the test subclasses the kit for the op that the scaffold writes; a function offers what it reads."""
    [code] = [code for language, code in CODE.findall((ROOT / "README.md").read_text()) if language == "python"]
    ranges, test, offering = [code for language, code in CODE.findall((ROOT / "docs" / "plugins.md").read_text()) if language == "python"]
    (tmp_path / "my_surgery.py").write_text(contents("gradient_ops", "my-surgery")[1].code)
    (tmp_path / "test_my_surgery.py").write_text(test)
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "softer.py").write_text(ranges)
    (tmp_path / "test_offering.py").write_text(
        f"{offering}\n\nfrom core.contracts import ReadsFiles\nfrom core.registry.offers import faults\n\n\n"
        "def test_offers(tmp_path):\n    assert isinstance(load, ReadsFiles) and not list(faults(load, 'models'))\n"
        "    (tmp_path / 'my_model.json').touch()\n    assert load.reads(tmp_path, None) == {'checkpoint': tmp_path}\n"
    )
    (tmp_path / "test_mine.py").write_text(
        "from core.testing import GradientOpKit\nfrom mine import Half\nfrom softer import Softer\n\n\n"
        "class TestHalf(GradientOpKit):\n    def make(self):\n        return Half(anchor='loop1')\n\n\n"
        "class TestSofter(GradientOpKit):\n    def make(self):\n        return Softer()\n"
    )
    run = Command("pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", tmp_path, tmp_path)
    said, errors = run.communicate(HANGS_S)
    assert run.returncode == 0, said + errors
    assert " passed" in said
