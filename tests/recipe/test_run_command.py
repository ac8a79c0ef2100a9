"""``python -m core.run`` up to the point where a run would start."""

from __future__ import annotations

import json
import sys
import types

import pytest

from core.commands.run import main


def test_faults_go_to_stderr_with_exit_2(folder, capsys) -> None:
    assert main([str(folder.write()), "train.updates=x", "--check", "seed=-1"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines()[:2] == [
        "command line: seed: expected a value >= 0, got -1 (an integer)",
        "command line: train.updates: expected an integer, got 'x' (text)",
    ]
    assert "2 faults in " in shown.err


def test_check_reports_components_paths_and_samples(folder, capsys) -> None:
    assert main([str(folder.write()), "--check", "train.accumulate=2", "launch={strategy: ddp, processes: 4}"]) == 0
    shown = capsys.readouterr()
    assert "samples per update and loop: 24 = 3 x 2 accumulated x 4 processes" in shown.out
    assert "recipe OK (2 of 2 paths are placeholders that do not exist here)" in shown.out
    assert "r.yaml:4: model.checkpoint: /nowhere/model does not exist" in shown.err


def test_check_of_a_recipe_whose_paths_exist_is_just_ok(folder, capsys) -> None:
    (folder.path / "model").mkdir()
    (folder.path / "a").mkdir()
    assert main([str(folder.write()), "--check", f"data.root={folder.path}"]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1] == "recipe OK"
    assert shown.err == ""


def test_resolved_prints_yaml_only(folder, capsys) -> None:
    assert main([str(folder.write()), "--resolved"]) == 0
    assert capsys.readouterr().out.startswith(f"recipe: 1  # {folder.path}/r.yaml:1\nname: small")


def test_schema_needs_no_recipe(capsys) -> None:
    assert main(["--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "dualloop recipe"


def test_a_missing_recipe_is_one_sentence(tmp_path, capsys) -> None:
    assert main([str(tmp_path / "gone.yaml")]) == 2
    assert capsys.readouterr().err == f"error: the recipe {tmp_path}/gone.yaml cannot be read: No such file or directory\n"
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("error: name a recipe: a YAML file, or one that comes with dualloop: ")


@pytest.mark.parametrize(("arguments", "resume"), [([], None), (["--resume"], True), (["--resume", "runs/x"], "runs/x")])
def test_the_engine_gets_the_checked_recipe(folder, monkeypatch, arguments: list[str], resume) -> None:
    calls = []
    engine = types.SimpleNamespace(run=lambda recipe, registry, resume, quiet, profile: calls.append((recipe, resume, quiet, profile)) or 0)
    monkeypatch.setitem(sys.modules, "core.engine.runner", engine)
    assert main([str(folder.write()), "--quiet", "--profile", "2", "train.updates=9", *arguments]) == 0
    ((recipe, given, quiet, profile),) = calls
    assert recipe.values["train"]["updates"] == 9
    assert (given if given in (None, True) else str(given), quiet, profile) == (resume, True, 2)


def test_resume_of_a_folder_uses_the_recipe_that_it_keeps(folder, monkeypatch) -> None:
    calls = []
    engine = types.SimpleNamespace(run=lambda recipe, registry, resume, quiet, profile: calls.append((recipe.values["name"], resume)) or 0)
    monkeypatch.setitem(sys.modules, "core.engine.runner", engine)
    folder.write(name="recipe.yaml")
    (folder.path / "recipe.json").write_text("{}")
    assert main(["--resume", str(folder.path)]) == 0
    assert main(["--resume", str(folder.path), "name=longer"]) == 0
    assert main(["--resume", str(folder.write())]) == 0  # a recipe after the option is the recipe
    assert main([str(folder.write()), "--resume", "name=other"]) == 0  # so is a setting after it a setting
    assert calls == [("small", folder.path), ("longer", folder.path), ("small", True), ("other", True)]
