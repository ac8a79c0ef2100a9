"""A run that begins with another run's trained weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.checkpoints.start import started_from
from core.checkpoints.trained_weights import open_run
from core.contracts import UserError
from core.engine import building, checkpoint, runner
from core.recipe import Recipe, check
from core.registry import Registry

Make = Callable[..., Recipe]
FAST = ("optimizer.lr=0.01", "train.updates=2")


def go(recipe: Recipe, **options: object) -> Path:
    assert runner.run(recipe, Registry(), quiet=True, **options) == 0
    return max(Path(recipe.values["output"]).iterdir(), key=lambda folder: folder.stat().st_mtime_ns)


def built(recipe: Recipe, folder: Path) -> building.Run:
    folder.mkdir(parents=True, exist_ok=True)
    return building.build_run(recipe, Registry(), folder, None)


def trained(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.list_checkpoints(folder / "checkpoints")[-1][1] / "trained.safetensors")


def values(run: building.Run) -> dict[str, torch.Tensor]:
    return {f"{group}/{name}": p.detach() for group, members in run.model.trainable().items() for name, p in members}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_it_equals_loading_the_weights_by_hand_and_outlives_the_first_run(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = go(tiny(*FAST))
    monkeypatch.chdir(first.parent)
    other = ("optimizer.lr=0.02", "train.updates=2", "gradient={use: sum}", f"output={tmp_path / 'second'}")
    second = go(tiny(*other, f"start_from={first.name}"))
    hand = built(tiny(*other), tmp_path / "hand")
    checkpoint.load_trained(trained(first), hand.trainer.strategy.groups, first)
    hand.teacher.start(hand.trainer.strategy.groups)  # its shadow begins with these weights, too
    for number in range(2):
        hand.trainer.update(number)
    assert same(values(hand), trained(second))
    assert same(hand.teacher.state_dict(), load_file(second / "checkpoints" / "update-000002" / "teacher.safetensors"))
    assert json.loads((second / "recipe.json").read_text())["start_from"] == str(first)
    assert started_from(second) == [f"start: the trained weights of {first}/checkpoints/update-000002"]

    begun = trained(first)
    shutil.rmtree(first)
    monkeypatch.chdir(tmp_path)
    opened = open_run(second, Registry())  # what its groups are compared with is what it began with
    opened.use("base")
    now = {f"{group}/{name}": p.detach() for group, members in opened.model.trainable().items() for name, p in members}
    assert same(now, begun)
    shutil.rmtree(second / "checkpoints" / "update-000002")  # before the first checkpoint, too, it goes on without the first run
    (second / "result.json").unlink()
    go(tiny(*other, f"start_from={first}"), resume=second)
    assert same(trained(second), values(hand))
    (second / "start.safetensors").unlink()
    with pytest.raises(UserError, match=r"start\.safetensors: not found; the run began with the weights of"):
        open_run(second, Registry())


@pytest.fixture
def projector_only(tiny: Make, tmp_path: Path) -> Path:
    return go(tiny(*FAST, "model.train=[projector]", f"output={tmp_path / 'first'}"))


def test_groups_that_only_one_of_the_two_trains(tiny: Make, tmp_path: Path, projector_only: Path) -> None:
    plain, run = built(tiny(), tmp_path / "plain"), built(tiny(f"start_from={projector_only}"), tmp_path / "run")
    for name, tensor in values(run).items():
        assert torch.equal(tensor, (trained(projector_only) if name.startswith("projector/") else values(plain))[name]), name
    [sentence] = started_from(tmp_path / "run")
    assert sentence.endswith("; from the base, since not trained there: text_hidden_fcs, lora, sam2_decoder")
    with pytest.raises(UserError, match=r"trained projector, which this recipe does not train.*core\.convert .*update-000002 OUT"):
        built(tiny("model.train=[lora]", f"start_from={projector_only}"), tmp_path / "lost")
    assert not (tmp_path / "lost" / "start.safetensors").exists()


def test_another_base_is_refused_and_other_settings_are_told(
    tiny: Make, tmp_path: Path, small_checkpoint: Path, projector_only: Path
) -> None:
    start = f"start_from={projector_only / 'checkpoints' / 'update-000002'}"
    copy = Path(shutil.copytree(small_checkpoint, tmp_path / "copy"))
    built(tiny(start, f"model.checkpoint={copy}", "model.lora.alpha=16"), tmp_path / "run")  # equal files in another place
    assert started_from(tmp_path / "run")[1:] == ["warning: start_from: model.lora.alpha was 8, is 16"]
    tensors = load_file(copy / "model.safetensors")
    save_file(tensors | {name: tensor + 1 for name, tensor in list(tensors.items())[:1]}, copy / "model.safetensors")
    with pytest.raises(UserError, match=rf"was trained over model\.checkpoint={small_checkpoint}, this recipe has {copy}, with other"):
        built(tiny(start, f"model.checkpoint={copy}"), tmp_path / "other")


def test_what_is_no_run_or_does_not_fit_is_one_sentence(tiny: Make, tmp_path: Path) -> None:
    assert not check(tiny("start_from=~/nowhere"), Registry())
    with pytest.raises(UserError, match=r"^start_from: .*nowhere: not found; name a run folder or one of its checkpoints$"):
        built(tiny(f"start_from={tmp_path / 'nowhere'}"), tmp_path / "run")
    run = tmp_path / "made"
    (run / "checkpoints" / "update-000001").mkdir(parents=True)
    recipe = tiny()
    from core.engine.going_on import write_recipe

    write_recipe(run, recipe, Registry())
    save_file({"lora/other": torch.zeros(2)}, run / "checkpoints" / "update-000001" / "trained.safetensors")
    with pytest.raises(UserError, match=r"does not fit this recipe's model; .* tensors differ, such as"):
        built(tiny(f"start_from={run}"), tmp_path / "other")
