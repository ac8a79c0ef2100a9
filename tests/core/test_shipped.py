"""Recipes and assets that come with the toolkit: by name, from any folder, and in a resolved recipe that is read elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from core.commands.cli import COMMANDS
from core.commands.cli import main as dualloop
from core.contracts import UserError
from core.installed import shipped as where
from core.installed.shipped import find_recipe, recipe_names, shipped
from core.recipe import check, load, resolved_values, resolved_yaml
from core.registry import Registry

ROOT = Path(__file__).parents[2]


def test_every_recipe_is_listed_with_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert dualloop(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in recipe_names():
        [line] = [line for line in lines if line.startswith(name)]
        assert len(line.removeprefix(name).strip()) > 20


def test_a_copy_is_the_recipe_and_nothing_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dualloop(["recipes", "copy", "shapes_base"]) == 0
    assert Path("shapes_base.yaml").read_bytes() == (ROOT / "recipes" / "shapes_base.yaml").read_bytes()
    assert dualloop(["recipes", "copy", "shapes_base"]) == 2
    assert "shapes_base.yaml exists already" in capsys.readouterr().err
    assert dualloop(["recipes", "copy", "shape_base", "x.yaml"]) == 2
    assert "did you mean 'shapes_base'?" in capsys.readouterr().err
    assert dualloop(["recipes", "copy", "shapes_base", "absent/x.yaml"]) == 2
    assert "cannot be written: No such file or directory" in capsys.readouterr().err


def test_a_copy_brings_what_it_builds_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert dualloop(["recipes", "copy", "dual_loop_24gb", "mine.yaml"]) == 0
    assert Path("dual_loop_8gpu.yaml").read_bytes() == (ROOT / "recipes" / "dual_loop_8gpu.yaml").read_bytes()
    assert load("mine.yaml").values["train"]["batch_size"] == load(ROOT / "recipes" / "dual_loop_24gb.yaml").values["train"]["batch_size"]
    assert "which it builds on" in capsys.readouterr().out
    Path("dual_loop_8gpu.yaml").write_text("recipe: 1\n")
    assert dualloop(["recipes", "copy", "dual_loop_24gb", "other.yaml"]) == 2
    assert "dual_loop_8gpu.yaml exists already and is another recipe" in capsys.readouterr().err
    assert not Path("other.yaml").exists()


def test_a_file_of_the_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe("dual_loop_tiny") == ROOT / "recipes" / "dual_loop_tiny.yaml"
    Path("dual_loop_tiny").write_text("recipe: 1\n")
    assert find_recipe("dual_loop_tiny") == Path("dual_loop_tiny")
    with pytest.raises(UserError, match=r"the recipe dual_loop_tiny\.yaml cannot be read: .*; did you mean dual_loop_tiny\?"):
        find_recipe("dual_loop_tiny.yaml")  # a path is a path
    Path("dual_loop_tiny.yaml").write_text("recipe: 1\n")
    assert find_recipe("dual_loop_tiny.yaml") == Path("dual_loop_tiny.yaml")


@pytest.mark.parametrize(
    "command", [["run", "dual_lop_tiny", "--check"], ["run", "dual_lop_tiny", "--sweep", "seed=1"], ["check", "dual_lop_tiny"]]
)
def test_a_misspelt_name_says_what_was_meant(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert dualloop(command) == 2
    assert "there is no recipe 'dual_lop_tiny'" in (told := capsys.readouterr().err)
    assert "did you mean 'dual_loop_tiny'?" in told


@pytest.mark.parametrize("place", ["assets/nothing", "core/run.py", "assets/../pyproject.toml", ""])
def test_only_what_is_shipped_is_found(place: str) -> None:
    with pytest.raises(UserError, match="comes with dualloop"):
        shipped(place)


def test_a_resolved_recipe_names_what_is_shipped_so_that_another_installation_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    recipe, registry = load("dual_loop_tiny"), Registry()
    assert not check(recipe, registry)
    assert recipe.values["model"]["checkpoint"] == str(ROOT / "assets" / "sa2va-shapes")
    Path("recipe.yaml").write_text(resolved_yaml(recipe, registry))

    shutil.copytree(ROOT / "assets", tmp_path / "elsewhere" / "assets")
    monkeypatch.setattr(where, "FOLDER", tmp_path / "elsewhere")
    moved = load("recipe.yaml")
    assert moved.values["model"]["checkpoint"] == str(tmp_path / "elsewhere" / "assets" / "sa2va-shapes")
    assert resolved_values(moved, registry) == resolved_values(recipe, registry), "a run could not be resumed there"


def test_an_unknown_place_is_a_fault_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text('recipe: 1\nname: mine\nmodel:\n  use: sa2va\n  checkpoint: "${shipped:assets/none}"\n')
    assert [str(fault) for fault in load(tmp_path / "mine.yaml").faults] == [
        f"{tmp_path / 'mine.yaml'}:5: model.checkpoint: nothing named 'assets/none' comes with dualloop"
    ]


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert dualloop(["--help"]) == 0
    told = capsys.readouterr().out
    doors = {file.stem for file in (ROOT / "core").glob("*.py")} - {"__init__", "cli", "contracts", "cores", "late", "outside"}
    assert set(COMMANDS) == doors
    assert all(f"\n  {command} " in told for command in COMMANDS)
    assert dualloop(["--version"]) == 0
    assert capsys.readouterr().out.startswith("dualloop ")
