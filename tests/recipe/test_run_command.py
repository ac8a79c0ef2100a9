"""``python -m core.run`` up to the point where a run would start."""

from __future__ import annotations

import json
import sys
import types

import pytest
from conftest import RECIPE

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


def test_diff_tells_each_key_with_the_place_of_both_values(folder, capsys) -> None:
    """Defaults included; a number's spelling is no difference; a run's folder stands for its recipe."""
    changed = RECIPE.replace("weight: 1\n", "weight: 1.0\n").replace("k: 4\n", "k: 4\n          temperature: 0.9\n")
    one, other = folder.write(), folder.write(changed, "o.yaml")
    assert main([str(one), "optimizer.lr=2e-3", "model.lora={r: 2}", "--diff", str(other)]) == 0
    where = f"{folder.path}/o.yaml"
    assert capsys.readouterr().out.splitlines() == [
        f"--- {one}",
        f"+++ {other}",
        *("", "model.lora", "  - {r: 2, alpha: 1.0}  # command line", "  + null  # default"),
        *("", "loops.one.tasks.seg.sampler.temperature", "  - 0.7  # default", f"  + 0.9  # {where}:14"),
        *("", "optimizer.lr", "  - 0.002  # command line", f"  + 0.001  # {where}:23"),
        *("", "3 keys differ"),
    ]
    run = folder.path / "run"
    run.mkdir()
    (run / "recipe.json").write_text("{}")
    (run / "parts.py").write_text((folder.path / "parts.py").read_text())
    (run / "recipe.yaml").write_text(RECIPE.replace("seed: 1", "seed: 5"))
    assert main([str(run / "recipe.yaml"), "seed=5", "--diff", str(run)]) == 0
    assert capsys.readouterr().out.endswith("no difference: both mean the same run\n")
    assert main([str(one), "--diff", str(run)]) == 0
    assert f"seed\n  - 1  # {one}:3\n  + 5  # {run}/recipe.yaml:3\n\n1 key differs\n" in capsys.readouterr().out


def test_diff_of_what_is_no_recipe(folder, capsys) -> None:
    bad = folder.write(RECIPE.replace("seed: 1", "seed: -1"), "bad.yaml")
    assert main([str(bad), "--diff", str(folder.write(RECIPE.replace("k: 4", "k: x")))]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("1 fault in ") == 2, "both are told"
    with pytest.raises(SystemExit):
        main([str(bad), "--diff", str(bad), "--check"])
    assert main([str(folder.write()), "--diff", str(folder.path / "gone.yaml")]) == 2
    assert "gone.yaml cannot be read" in capsys.readouterr().err


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
