from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from core.commands.check import main
from core.commands.cli import main as cli

ROOT = Path(__file__).parents[2]
TINY = str(ROOT / "recipes" / "dual_loop_tiny.yaml")
FEW = ("loops.loop2.tasks.cycle.data={sav: null, cocostuff: null, mapillary: null, openimages: null, paco: null}", "evaluate.caption=null")


@pytest.fixture
def checked(world: Path, small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command on the shipped main recipe; returns (exit code, findings by subject as "status text")."""

    def run(*overrides: str, data: Path = world) -> tuple[int, dict[str, list[str]]]:
        given = [f"data.world={data}", f"model.checkpoint={small_checkpoint}", f"output={tmp_path}", "model.lora={r: 4}", *overrides]
        code = main([TINY, *given, "--json", "--out", str(tmp_path / "sheets"), "--samples", "20"])
        report = json.loads(capsys.readouterr().out)
        assert report["ok"] == (code == 0)
        found: dict[str, list[str]] = {}
        for finding in report["findings"]:
            found.setdefault(finding["subject"], []).append(f"{finding['status']} {finding['text']}")
        return code, found

    return run


def test_a_sound_recipe_passes_with_sheets_and_sizes(checked: Any, tmp_path: Path) -> None:
    code, found = checked()
    assert code == 0, [line for lines in found.values() for line in lines if line.startswith("fail")]
    for name in ("loops.loop1.tasks.pseudo.data.sa1b", "loops.loop2.tasks.cycle.data.lvis", "evaluate.referring.data"):
        assert any("none bad" in line for line in found[name])
        with Image.open(tmp_path / "sheets" / f"{name}.png") as sheet:
            assert sheet.width > 256
    assert any(line.startswith("pass captions take") for line in found["loops.loop2.tasks.cycle.data.lvis"])
    assert any(line.startswith("pass none of its") for line in found["evaluate.referring.data"])
    assert "updates an epoch" in found["loops.loop1"][0]
    assert "trained: projector" in found["model"][0]
    assert "a micro-batch" in found["memory"][0]
    assert "checkpoints of" in found["checkpoint"][0]


def test_the_model_s_numbers_are_those_of_the_built_model(tiny: Any) -> None:
    from core.contracts import Work
    from core.preflight.machine import model_facts
    from core.recipe import build
    from core.registry import Registry

    recipe, registry = tiny("model.resize=fast"), Registry()
    facts, _ = model_facts(recipe, registry)
    model = build(recipe, ("model",), registry)
    assert facts["trained"] == {group: sum(p.numel() for _, p in members) for group, members in model.trainable().items()}
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert facts["tokens"]("a red square") == int(model.tokenize(["a red square"], 99).mask.sum())
    assert facts["preparation"] == model.preparation
    assert model.preparation.fast
    two, four = (Work(regions, regions, ("segment",), 10, False, False) for regions in (2, 4))
    assert facts["working"](four) == pytest.approx(2 * facts["working"](two), rel=1e-5)
    assert facts["working"](two) > 0


def test_everything_missing_is_told_at_once(checked: Any, tmp_path: Path) -> None:
    code, found = checked("model.checkpoint=/absent", data=tmp_path / "nowhere")
    assert code == 1
    assert found["model"][0].startswith("fail /absent: no such checkpoint folder")
    for name in ("loops.loop1.tasks.pseudo.data.sav", "loops.loop2.tasks.cycle.data.paco", "evaluate.caption.data"):
        assert "does not exist" in found[f"{name}.root"][0]
        assert name not in found  # once is enough


def test_bad_samples_are_counted_with_reasons(checked: Any, world: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(world, copy)
    for picture in sorted((copy / "sa1b").glob("*.jpg"))[::2]:
        picture.write_bytes(picture.read_bytes()[:300])
    code, found = checked(*FEW, data=copy)
    lines = found["loops.loop1.tasks.pseudo.data.sa1b"]
    assert code == 1
    assert any(line.startswith("fail ") and "damaged picture" in line and "sa_" in line for line in lines)
    code, found = checked(*FEW, "train.max_bad_fraction=1", data=copy)
    assert code == 0
    assert any(line.startswith("warn ") and "damaged picture" in line for line in found["loops.loop1.tasks.pseudo.data.sa1b"])


def test_captions_that_are_often_cut(checked: Any) -> None:
    _, found = checked(*FEW, "loops.loop2.tasks.cycle.caption_length=3")
    assert any(line.startswith("warn captions take") and "cut at 3" in line for line in found["loops.loop2.tasks.cycle.data.lvis"])


def test_evaluation_on_training_pictures(checked: Any) -> None:
    code, found = checked(*FEW, "evaluate.referring.data.split=train", "loops.loop1.tasks.referring.data.refcoco.max_samples=10000")
    assert code == 1
    assert any(line.startswith("fail ") and "are also in loops.loop1" in line for line in found["evaluate.referring.data"])


def test_devices_that_are_not_there(checked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, found = checked(*FEW, "launch.device=cuda", "launch.processes=2", "launch.strategy=ddp", "train.workers=1000")
    assert code == 1
    assert found["launch"] == ["fail 2 GPUs asked for, 1 found"]
    assert found["train.workers"][0].startswith("warn ")


def test_a_disk_too_small(checked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil as module
    from collections import namedtuple

    monkeypatch.setattr(module, "disk_usage", lambda _: namedtuple("Usage", "free")(1000))
    code, found = checked(*FEW)
    assert code == 1
    assert found["checkpoint"][0].startswith("fail ")


def test_a_wrong_recipe_and_the_command_s_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["check", TINY, "train.updaets=3"]) == 2
    assert "updaets" in capsys.readouterr().err
    assert cli(["--help"]) == 0
    assert "check " in capsys.readouterr().out


def test_wrapped_and_weighted_sources(checked: Any, tmp_path: Path) -> None:
    """A wrapper is drawn as training draws it; what is inside is read, but is neither counted twice nor judged by the loop's needs."""
    lines: list[dict[str, Any]] = [{"image": f"{i}.png", "mask": f"{i}.m.png" if i else None, "id": f"n{i}"} for i in range(3)]
    for i in range(3):
        Image.new("RGB", (40, 40), (50 * i, 9, 9)).save(tmp_path / f"{i}.png")
        Image.new("L", (40, 40), 255).save(tmp_path / f"{i}.m.png")
    (tmp_path / "regions.jsonl").write_text("\n".join(json.dumps(line | {"captions": ["one", "one two three"]}) for line in lines))
    inner = f"{{use: folder_regions, root: {tmp_path}, empty_masks: true}}"
    mine = f"{{use: repeat, times: 2, data: {{use: augment, crop: [0.5, 0.9], data: {inner}}}, weight: 3}}"
    place, task = "loops.loop1.tasks.referring.data", "loops.loop1.tasks.referring"
    weights = ("loops.loop1.tasks.pseudo.data={sav: {weight: 1}, sa1b: null, openimages: null}", f"{place}.refcoco.weight=1")
    code, found = checked(*FEW, *weights, f"{task}.empty_masks=true", f"{place}.mine={mine}")
    assert code == 0, [line for lines in found.values() for line in lines if line.startswith("fail")]
    own = "\n".join(found[f"{place}.mine"])
    assert "6 regions, opened" in own
    assert "6 samples drawn, none bad" in own
    assert "2 of 6 samples drawn have no target" in own
    assert "60.0% of loop1's samples by weight" in own
    assert "6 regions: 192.00 epochs" in own  # 120 updates of 16 samples, of which 3 / 5
    assert any("3 samples drawn, none bad" in line for line in found[f"{place}.mine.data.data"])
    assert "loops.loop1" not in found  # its sources have epochs of their own
    code, found = checked(*FEW, *weights, f"{place}.mine={mine}")
    assert code == 1
    assert any("mask is empty at the model's size" in line for line in found[f"{place}.mine"])


def test_a_teacher_that_is_another_model_is_opened_and_counted(checked: Any, small_checkpoint: Path) -> None:
    from core.preflight.finding import size
    from plugins.models.sa2va.components import load

    numbers = sum(parameter.numel() for parameter in load(checkpoint=small_checkpoint, train=[]).parameters())
    model = f"use: sa2va, checkpoint: {small_checkpoint}, train: []"
    code, found = checked(*FEW, "teacher=null", f"teacher={{use: frozen, model: {{{model}}}}}")
    assert code == 0, [line for lines in found.values() for line in lines if line.startswith("fail")]
    assert f"pass {numbers:,} parameters" in found["teacher.model"]
    assert found["teacher.model.checkpoint"] == [f"pass {small_checkpoint} found"]
    assert f"teacher {size(4 * numbers)}," in found["memory"][0]
    code, found = checked(*FEW, "teacher=null", "teacher={use: frozen, model: {use: sa2va, checkpoint: docs}}")
    assert code == 1
    assert any(line.startswith("fail") and "docs/config.json" in line for line in found["teacher.model"])


def test_what_is_in_order_is_shown_only_if_asked_for(
    world: Path, small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.commands import check as command
    from core.preflight.finding import Finding

    found = [Finding("pass", "model", "small"), Finding("warn", "memory", "narrow"), Finding("pass", "disk", "free")]
    monkeypatch.setattr(command, "_findings", lambda *_: iter(found))
    given = [TINY, f"data.world={world}", f"model.checkpoint={small_checkpoint}", f"output={tmp_path}", "model.lora={r: 4}"]
    assert main(given) == 0
    short = capsys.readouterr().out
    assert "narrow" in short
    assert "small" not in short
    assert short.splitlines()[-1] == "2 pass (--all shows them), 1 warn, 0 fail"
    assert main([*given, "--all"]) == 0
    whole = capsys.readouterr().out
    assert all(one.text in whole for one in found)
    assert whole.splitlines()[-1] == "2 pass, 1 warn, 0 fail"
