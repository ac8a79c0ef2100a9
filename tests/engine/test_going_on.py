"""Going on in a run's folder: a finished run, a longer one, another recipe."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.commands.run import main
from core.contracts import UserError
from core.engine import runner
from core.recipe import Recipe
from core.registry import Registry

Make = Callable[..., Recipe]


def go(recipe: Recipe, **options: object) -> Path:
    """Runs a recipe quietly; returns its newest run folder."""
    assert runner.run(recipe, Registry(), quiet=True, **options) == 0
    return max(Path(recipe.values["output"]).iterdir(), key=lambda folder: folder.stat().st_mtime_ns)


def tensors(folder: Path, update: int) -> dict[str, torch.Tensor]:
    files = sorted((folder / "checkpoints" / f"update-{update:06d}").glob("*.safetensors"))
    return {f"{file.stem}:{name}": tensor for file in files for name, tensor in load_file(file).items()}


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def test_a_run_trained_longer_equals_one_of_that_length_bit_for_bit(
    tiny: Make, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "runs" / "run"))
    assert runner.run(tiny("train.updates=8"), Registry(), resume=folder) == 0
    assert "longer: 8 updates instead of 4, 4 are done" in " ".join(capsys.readouterr().out.split())
    whole = go(tiny("train.updates=8", f"output={tmp_path / 'whole'}"))
    longer, other = tensors(folder, 8), tensors(whole, 8)
    assert longer.keys() == other.keys()
    assert [name for name in longer if not torch.equal(longer[name], other[name])] == []
    middle = tensors(whole, 4)
    assert all(not torch.equal(longer[name], middle[name]) for name in longer if name.startswith("trained:projector"))


def test_the_rate_follows_the_new_number_of_updates(tiny: Make, tmp_path: Path) -> None:
    def rates(run: Path) -> list[float]:
        return [json.loads(line)["optimizer/lr"] for line in (run / "metrics.jsonl").read_text().splitlines()]

    falling = "optimizer.schedule=cosine"
    folder = go(tiny(falling))
    short = rates(folder)
    runner.run(tiny(falling, "train.updates=8"), Registry(), resume=folder, quiet=True)
    whole = rates(go(tiny(falling, "train.updates=8", f"output={tmp_path / 'whole'}")))
    assert rates(folder) == short[:4] + whole[4:]
    assert short[3] != whole[3]


def test_a_finished_run_says_so_and_a_longer_one_keeps_what_was(
    tiny: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = go(tiny("checkpoint.export=true"))
    before, result = snapshot(folder), (folder / "result.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(runner, "build_run", lambda *given: pytest.fail("a finished run was built"))
        assert main(["--resume", str(folder)]) == 0
    assert f"{folder}: finished already, 4 of 4 updates; train.updates=N with a larger N trains it longer" in capsys.readouterr().out
    assert snapshot(folder) == before
    go(tiny("train.updates=5"), resume=folder)
    assert json.loads((folder / "recipe.json").read_text())["train"]["updates"] == 5
    assert "updates: 5" in (folder / "recipe.yaml").read_text()
    kept = folder / "until-update-000004"
    assert "updates: 4" in (kept / "recipe.yaml").read_text()
    assert (kept / "result.json").read_bytes() == result
    assert (folder / "result.json").is_file()
    assert not (kept / "recipe.json").exists()  # it would count as a run of its own
    before = snapshot(folder)
    assert main(["--resume", str(folder), "--quiet"]) == 0  # the folder's own recipe: it is finished with 5
    assert snapshot(folder) == before


def test_a_shorter_or_another_recipe_is_refused_with_both_ways_on(tiny: Make, finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "runs" / "run"))
    before = snapshot(folder)
    ways = rf"--resume {folder} alone goes on with its own recipe, train\.updates=N trains it longer.* start_from={folder}$"
    with pytest.raises(UserError, match=r"train\.updates was 4, is 2 \(a run can become longer, not shorter\); " + ways):
        runner.run(tiny("train.updates=2"), Registry(), resume=folder, quiet=True)
    with pytest.raises(UserError, match=r"optimizer\.lr was 5e-05, is 0\.1; " + ways):
        runner.run(tiny("train.updates=8", "optimizer.lr=0.1"), Registry(), resume=folder, quiet=True)
    with pytest.raises(UserError, match=r"gradient\.use was 'pcgrad_orthogonal', is 'pcgrad'"):
        runner.run(tiny("gradient.use=pcgrad"), Registry(), resume=folder, quiet=True)
    assert snapshot(folder) == before
    with pytest.raises(UserError, match=r"nothing to resume: .* is no run folder \(no recipe\.json in it\)"):
        runner.run(tiny(), Registry(), resume=folder.parent, quiet=True)
    os.remove(folder / "result.json")  # a run that ended before its result goes on to it
    go(tiny(), resume=folder)
    assert (folder / "result.json").is_file()
