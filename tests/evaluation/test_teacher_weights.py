"""``--weights teacher``: the slow weights of a run's teacher, measured, exported and compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.checkpoints.trained_weights import open_run
from core.commands import convert
from core.commands.evaluate import main
from core.comparison.runs import evaluated, read_run
from core.engine import runner
from core.recipe import Recipe
from core.registry import Registry


@pytest.fixture
def run(tiny: Callable[..., Recipe]) -> Path:
    recipe = tiny("optimizer.lr=0.05", "train.updates=2", "teacher.decay=0.5")
    assert runner.run(recipe, Registry(), quiet=True) == 0
    return next(Path(recipe.values["output"]).iterdir())


def test_measured_and_compared_beside_the_student(run: Path, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = ["--use", "refcoco", "--data", "refcoco", f"root={world}/ref_seg", "split=val", "max_samples=3", "max_new_tokens=4", "--quiet"]
    assert main([str(run), *about]) == 0
    student = run / "evaluation" / "update-000002" / "refcoco-val"
    before = (student / "card.json").read_bytes()
    assert main([str(run), *about, "--weights", "teacher", "ablate=true"]) == 0
    assert (student / "card.json").read_bytes() == before
    teacher = run / "evaluation" / "update-000002-teacher" / "refcoco-val"
    ours, theirs = (json.loads((folder / "card.json").read_text()) for folder in (student, teacher))
    assert "weights" not in ours["checkpoint"]
    assert theirs["checkpoint"]["weights"] == "teacher"
    assert theirs["checkpoint"]["sha256"] != ours["checkpoint"]["sha256"]
    assert "refcoco-val (the teacher's weights)" in capsys.readouterr().out
    assert (teacher / "card.md").read_text().startswith("# refcoco-val (the teacher's weights)\n")
    assert (teacher / "full" / "items.jsonl").read_bytes() != (student / "full" / "items.jsonl").read_bytes()

    after = read_run(run).after
    assert {"refcoco-val/cIoU", "refcoco-val@teacher/cIoU"} <= set(evaluated([read_run(run)]))
    assert after["refcoco-val/cIoU"].value == ours["results"]["refcoco-val"]["cIoU"]["value"]
    assert after["refcoco-val@teacher/cIoU"].value == theirs["results"]["refcoco-val"]["cIoU"]["value"]
    assert after["refcoco-val@teacher:lora/cIoU"].value == theirs["results"]["refcoco-val:lora"]["cIoU"]["value"]

    assert main([str(run), *about, "--weights", "teacher", "--out", str(student.parent)]) == 2
    assert "holds another evaluation" in capsys.readouterr().err
    assert main([str(run), *about, "--weights", "teacher", "--groups", "base"]) == 0
    assert main([str(run), *about, "--groups", "base"]) == 0
    assert (teacher / "base" / "items.jsonl").read_bytes() == (student / "base" / "items.jsonl").read_bytes()


def test_exported(run: Path, tmp_path: Path, small_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = load_file(run / "checkpoints" / "update-000002" / "teacher.safetensors")
    opened = open_run(run, Registry(), weights="teacher")
    for group, members in opened.model.trainable().items():
        for name, parameter in members:
            assert torch.equal(parameter, slow[f"{group}/{name}"]), name
    assert not torch.equal(slow["projector/" + opened.model.trainable()["projector"][0][0]], projector(open_run(run, Registry())))
    teacher = ["--weights", "teacher"]
    assert convert.main([str(run), str(tmp_path / "out"), *teacher, "--verify"]) == 0
    assert f"wrote full of {run}/checkpoints/update-000002's teacher to {tmp_path / 'out'}" in capsys.readouterr().out
    stored = load_file(tmp_path / "out" / "model.safetensors")
    name, parameter = opened.model.trainable()["projector"][0]
    assert torch.equal(stored[opened.model.network.config.layout.names(name, len(parameter))[0]], parameter)
    assert convert.main([str(run), str(tmp_path / "out.pth"), *teacher]) == 0
    again = Registry().get("models", "sa2va.legacy").create(file=tmp_path / "out.pth", checkpoint=small_checkpoint)
    assert torch.equal(again.trainable()["projector"][0][1], parameter)
    assert convert.main([str(run), str(tmp_path / "adapter"), *teacher, "--adapter"]) == 0
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    lora = {key.removeprefix("lora/llm.").replace(".default", ""): value for key, value in slow.items() if key.startswith("lora/")}
    assert {key.removeprefix("base_model.model.") for key in adapter} == lora.keys()
    assert all(torch.equal(adapter[f"base_model.model.{key}"], value) for key, value in lora.items())


def projector(opened: object) -> torch.Tensor:
    return opened.model.trainable()["projector"][0][1]


def test_without_slow_weights_it_is_one_sentence(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / "checkpoints" / "update-000002" / "teacher.safetensors"
    values = load_file(file)
    save_file({}, file)  # a teacher that is a model of its own
    message = "--weights teacher needs a teacher that keeps slow weights of the student; this run has none"
    assert convert.main([str(run), str(tmp_path / "out"), "--weights", "teacher"]) == 2
    assert message in capsys.readouterr().err
    file.unlink()
    assert convert.main([str(run), str(tmp_path / "out"), "--weights", "teacher"]) == 2
    assert message in capsys.readouterr().err
    values.pop(next(iter(values)))
    save_file(values, file)
    assert convert.main([str(run), str(tmp_path / "out"), "--weights", "teacher"]) == 2
    assert "does not fit this recipe's model; 1 tensors differ" in capsys.readouterr().err
    (tmp_path / "old.pth").write_bytes(b"")
    for command in ([str(tmp_path / "old.pth"), str(tmp_path / "out"), "--base", str(tmp_path)],):
        assert convert.main([*command, "--weights", "teacher"]) == 2
        assert "--weights teacher needs a run" in capsys.readouterr().err
    assert main([str(tmp_path / "old.pth"), "--base", str(tmp_path), "--weights", "teacher", "--use", "refcoco"]) == 2
    assert "--weights teacher needs a run" in capsys.readouterr().err
