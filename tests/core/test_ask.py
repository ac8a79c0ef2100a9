"""``ask``: what is asked about, of which model, what comes back, and what a user can put right."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.asking import answers, looking
from core.asking.opening import open_model
from core.commands import ask
from core.contracts import AnswersQuestions, UserError
from core.engine import runner
from core.recipe import Recipe
from core.registry import Registry
from core.testing.tiny_model import TinyModel
from plugins.models.sa2va.components import load
from plugins.models.sa2va.model import Sa2va

ASSET = Path(__file__).parents[2] / "assets" / "sa2va-shapes"


@pytest.fixture(scope="module")
def model() -> Sa2va:
    return load(checkpoint=ASSET).eval()


@pytest.fixture
def loaded(model: Sa2va, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small model is read once; what the command reads it from is tested by itself."""
    monkeypatch.setattr("core.asking.opening.open_model", lambda *_: (model, "small"))


def test_phrases_questions_and_regions_of_a_picture(loaded, scene, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert ask.main(["RUN", str(scene), "Please segment the red circle in this image.", "--segment", "blue square", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["asked"] for one in found["answers"]] == ["Please segment the red circle in this image.", "blue square"]
    assert found["outlined"] == ["answers/scene/outlined.png"]
    mask = np.asarray(Image.open(found["answers"][1]["files"][0][0]))
    assert (mask.shape, mask.dtype) == ((128, 128), np.bool_)
    assert found["answers"][1]["shares"] == [[pytest.approx(mask.mean())]]
    truth = np.zeros((128, 128), bool)
    truth[44:90, 76:118] = True
    assert (mask & truth).sum() / (mask | truth).sum() > 0.6
    outlined, plain = np.asarray(Image.open(found["outlined"][0])), np.asarray(Image.open(scene))
    changed = (outlined != plain).any(axis=2)
    inside = truth & ~changed
    assert 0 < changed.sum() < 0.3 * changed.size, "edges and numbers only: the picture keeps its colours"
    assert inside.sum() > 0.5 * truth.sum()

    assert ask.main(["RUN", str(scene), "--region", "76,44,118,90", "--region", "34,64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("76,44,118,90: ")
    assert "blue" in lines[0]
    assert "red" in lines[1]
    assert not (tmp_path / "answers" / "scene-1").exists(), "nothing to write"
    assert ask.main(["RUN", str(scene), "--segment", "red circle"]) == 0
    assert "mask 1: " in capsys.readouterr().out
    assert (tmp_path / "answers" / "scene-1" / "mask1.png").is_file(), "earlier answers are not overwritten"
    assert ask.main(["RUN", str(scene), "--segment", "red circle", "--out", str(scene / "masks")]) == 2
    assert "masks: cannot be written" in capsys.readouterr().err


def test_a_video_is_a_folder_of_frames(loaded, scene, tmp_path, capsys):
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(4):
        Image.open(scene).save(frames / f"{number}.png")
    out = tmp_path / "out"
    assert ask.main(["RUN", str(frames), "--segment", "blue square", "--segment", "red circle", "--every", "2", "--out", str(out)]) == 0
    assert "mask 2: " in capsys.readouterr().out
    names = [f"{what}-frame{frame:05d}.png" for what in ("mask1", "mask2", "outlined") for frame in (0, 1)]
    assert sorted(path.name for path in out.iterdir()) == names
    assert np.asarray(Image.open(out / "mask1-frame00001.png")).any()


def test_regions_are_boxes_points_and_masks(tmp_path):
    box = looking.read_region("10,20,30,50", 64, 96)
    assert (box.shape, box.sum()) == ((64, 96), 20 * 30)
    assert box[20:50, 10:30].all()
    point = looking.read_region(" 90.5, 3 ", 64, 96)
    rows, columns = np.nonzero(point)
    assert point[3, 90]
    assert (np.hypot(rows + 0.5 - 3, columns + 0.5 - 90.5) <= 64 / 20 + 1e-9).all()
    assert looking.read_region("0,0", 8, 8).any()
    Image.fromarray(box).save(tmp_path / "mask.png")
    assert (looking.read_region(str(tmp_path / "mask.png"), 64, 96) == box).all()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("1,2,3", "two numbers x,y are a point, four x0,y0,x1,y1 a box"),
        ("30,20,10,50", "x0 < x1 and y0 < y1"),
        ("10,20,30,65", "inside the picture; the picture has 96 x 64 pixels"),
        ("0.1,0.1,0.4,0.4", "in pixels, not in shares"),
        ("96,3", "the point x,y lies outside"),
        ("-1,3", "the point x,y lies outside"),
        ("cup.png", "region cup.png: not found; write a box"),
    ],
)
def test_a_region_that_is_none(written, message):
    with pytest.raises(UserError, match=message):
        looking.read_region(written, 64, 96)


def test_a_mask_file_that_does_not_fit(tmp_path):
    Image.new("1", (10, 10), 1).save(tmp_path / "small.png")
    with pytest.raises(UserError, match="10 x 10 pixels; the picture has 96 x 64"):
        looking.read_region(str(tmp_path / "small.png"), 64, 96)
    Image.new("1", (96, 64)).save(tmp_path / "empty.png")
    with pytest.raises(UserError, match="this mask is empty"):
        looking.read_region(str(tmp_path / "empty.png"), 64, 96)


def test_what_is_no_picture_and_no_video(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no frames"):
        looking.read_visual(tmp_path / "empty")
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(UserError, match=r"text\.png: not a picture"):
        looking.read_visual(tmp_path / "text.png")
    Image.new("RGB", (32, 48)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    for name, message in (("cut.png", "this picture cannot be read: damaged"), ("none.png", "not found")):
        with pytest.raises(UserError, match=rf"{name}: {message}"):
            looking.read_visual(tmp_path / name)
    (tmp_path / "clip.mp4").write_text("text")
    with pytest.raises(UserError, match=r"clip\.mp4: this video cannot be read"):
        looking.read_visual(tmp_path / "clip.mp4")
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for number, size in enumerate((8, 8, 9)):
        Image.new("RGB", (size, 8)).save(mixed / f"{number}.png")
    with pytest.raises(UserError, match=r"0\.png and 2\.png in .* have different sizes \(8 x 8 and 9 x 8\)"):
        looking.read_visual(mixed)
    monkeypatch.setattr(looking, "MOST_BYTES", 8 * 8 * 3)
    with pytest.raises(UserError, match="take some: --every 10"):
        looking.read_visual(mixed)
    with pytest.raises(UserError, match="--every goes with a video"):
        looking.read_visual(mixed / "0.png", 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "ask something: a question in quotes"),
        (["hi", "--every", "0"], "--every must be at least 1, not 0"),
        (["hi", "--max-new-tokens", "0"], "--max-new-tokens must be at least 1, not 0"),
        ([" "], "the question is empty"),
        (["--segment", ""], "the phrase of --segment is empty"),
        (["hi", "--out", "."], ".: already exists"),
        (["hi", "--device", "tpu"], "--device tpu: not here"),
    ],
)
def test_faults_are_one_sentence(scene, words, message, capsys):
    assert ask.main(["RUN", str(scene), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_no_model_and_regions_of_a_video(scene, tmp_path, capsys):
    assert ask.main([str(tmp_path / "none"), str(scene), "hi"]) == 2
    assert "none: not found; name a run" in capsys.readouterr().err
    frames = tmp_path / "frames"
    frames.mkdir()
    Image.open(scene).save(frames / "0.png")
    assert ask.main(["RUN", str(frames), "--region", "1,1"]) == 2
    assert "--region is about one picture" in capsys.readouterr().err


def test_a_model_that_keeps_the_contract_alone_segments_and_describes():
    model = TinyModel()
    assert not isinstance(model, AnswersQuestions)
    picture = np.zeros((32, 32, 3), np.uint8)
    assert len(answers.segment(model, picture, ["a", "b"], 4)) == 2
    mask = np.zeros((1, 32, 32), bool)
    mask[0, 4:20, 4:20] = True
    assert isinstance(answers.describe(model, picture, mask, ["here"], 4)[0].text, str)
    with pytest.raises(UserError, match=r"TinyModel.* has no 'ask' and 'segmentation_request'"):
        answers.ask(model, picture, "why?", None, 4)
    with pytest.raises(UserError, match=r"--upstream: the model \(TinyModel\) has no 'follow_upstream'; leave --upstream out"):
        answers.follow_upstream(model)
    with pytest.raises(UserError, match="has no 'ask'"):
        answers.segment(model, [picture, picture], ["a"], 4)


def test_a_run_is_opened_by_its_export_while_it_is_fresh(tiny: Callable[..., Recipe], tmp_path):
    recipe = tiny("train.updates=1", "optimizer.lr=0.05", "train.evaluate=none", "checkpoint.export=true", "model.frames=uniform")
    assert runner.run(recipe, Registry(), quiet=True) == 0
    run = next(Path(recipe.values["output"]).iterdir())
    exported, named = open_model(run, Registry())
    assert named == str(run / "export")
    assert exported.video.frames == "uniform", "what the run's recipe says of the model holds for its export"
    trained, named = open_model(run / "checkpoints" / "update-000001", Registry())
    assert named.endswith("update-000001")
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    one, other = (model.predict(picture, ["red circle"], 8)[0] for model in (exported, trained))
    assert one.text == other.text
    newer = run / "checkpoints" / "update-000001" / "trained.safetensors"
    later = (run / "export" / "config.json").stat().st_mtime + 5
    os.utime(newer, (later, later))
    assert open_model(run, Registry())[1].endswith("update-000001"), "it was trained longer than its export"
    half = open_model(run / "export", Registry(), dtype="bfloat16")[0]
    assert torch.bfloat16 in {parameter.dtype for parameter in half.parameters()}
    assert open_model(run / "export", Registry(), settings=["frames=uniform"])[0].video.frames == "uniform"
    assert open_model(run / "export", Registry())[0].video.frames == "first"
    with pytest.raises(UserError, match=r"model\.frame.*'frame'.*did you mean"):
        open_model(run / "export", Registry(), settings=["frame=uniform"])
    with pytest.raises(UserError, match="--base goes with a training file"):
        open_model(run / "export", Registry(), base=ASSET)
