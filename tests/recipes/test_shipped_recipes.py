"""Every shipped recipe, found by glob, passes its check and names only what is registered."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.commands.run import main
from core.recipe import check, components_used, load
from core.registry import Registry

RECIPES = sorted(
    path
    for path in (Path(__file__).parents[2] / "recipes").glob("**/*.yaml")
    if not load(path).values.get("experiment")  # those have a test of their own
)


def test_there_are_recipes() -> None:
    sizes = {"dual_loop_8gpu.yaml", "dual_loop_48gb.yaml", "dual_loop_24gb.yaml", "dual_loop_1gpu.yaml"}
    assert {"shapes_base.yaml", "dual_loop_tiny.yaml"} | sizes <= {recipe.name for recipe in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_shipped_recipe_passes_its_check(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load(path)
    assert [str(fault) for fault in check(recipe, Registry())] == []
    assert len(components_used(recipe, Registry())) > 8
    assert main([str(path), "--check", "--elsewhere"]) == 0
    assert "recipe OK" in capsys.readouterr().out


def test_the_big_recipe_reports_its_placeholders(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(next(path for path in RECIPES if path.name == "dual_loop_8gpu.yaml")), "--check"]) == 2
    printed = capsys.readouterr()
    assert "launch.device: launch asks for 8 GPUs, 0 found" in printed.err
    assert "for another machine check it with --check --elsewhere" in printed.err
    assert "model.checkpoint: /path/to/Sa2VA-4B does not exist; set SA2VA_CHECKPOINT\n" in printed.err
    missing = [line for line in printed.err.splitlines() if "does not exist" in line]
    names = ["SA2VA_CHECKPOINT", "SAV_DIR", "SA1B_DIR", "OPENIMAGES_DIR", "REFCOCO_DIR", "DAM_DIR"]
    assert [line.split("; set ")[1].split(";")[0] for line in missing] == names, "each path once, with the variable that gives it"
    assert "256 = 16 x 2 accumulated x 8 processes" in printed.out
