"""Whole runs on a small model: resume, what is trained, what one loop and a plain sum do, faults."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.contracts import UserError
from core.engine import building, checkpoint, runner
from core.engine.noise import RunNoise, derived_seed
from core.recipe import Recipe
from core.registry import Registry

Make = Callable[..., Recipe]


def go(recipe: Recipe, **options: object) -> Path:
    """Runs a recipe quietly; returns its newest run folder."""
    assert runner.run(recipe, Registry(), quiet=True, **options) == 0
    return max(Path(recipe.values["output"]).iterdir(), key=lambda folder: folder.stat().st_mtime_ns)


def built(recipe: Recipe, folder: Path) -> runner.Run:
    folder.mkdir(parents=True, exist_ok=True)
    return building.build_run(recipe, Registry(), folder, None)


def tensors(folder: Path, update: int) -> dict[str, torch.Tensor]:
    files = sorted((folder / "checkpoints" / f"update-{update:06d}").glob("*.safetensors"))
    assert [file.name for file in files] == ["optimizer.safetensors", "teacher.safetensors", "trained.safetensors"]
    return {f"{file.stem}:{name}": tensor for file in files for name, tensor in load_file(file).items()}


def logged(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith(("time", "memory"))} for line in lines]


def test_the_metrics_are_written_beside_trackers_of_any_name(tiny: Make, tmp_path: Path) -> None:
    run = built(tiny("track.jsonl={use: tensorboard}"), tmp_path / "run")
    assert sorted(type(tracker).__name__ for tracker in run.trackers._active.values()) == ["Jsonl", "Tensorboard"]
    run = built(tiny("track.mine={use: jsonl}"), tmp_path / "other")
    assert run.trackers.active == ("mine",)


def test_resume_equals_the_uninterrupted_run_bit_for_bit(tiny: Make, finished: Path, tmp_path: Path) -> None:
    whole, cut = finished, tmp_path / "cut"
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "update-000004")
    before = tensors(whole, 4)
    runner.run(tiny(), Registry(), resume=cut, quiet=True)
    after = tensors(cut, 4)
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert logged(whole) == logged(cut)
    assert len(logged(cut)) == 4


SGD = """
from __future__ import annotations
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
class Sgd:
    def __init__(self, *, lr: float = 0.01) -> None:
        self.lr = lr
    def build(self, groups, updates):
        optimizer = torch.optim.SGD([p for members in groups.values() for _, p in members], lr=self.lr, momentum=0.9)
        return optimizer, SequentialLR(optimizer, [LinearLR(optimizer, 0.5, total_iters=1), CosineAnnealingLR(optimizer, updates)], [1])
"""


def test_any_optimizer_and_rate_of_torch_is_resumed_bit_for_bit(tiny: Make, tmp_path: Path) -> None:
    (tmp_path / "sgd.py").write_text(SGD)
    recipe = tiny(f"optimizer={{use: '{tmp_path}/sgd.py:Sgd'}}")
    whole = go(recipe)
    cut = whole.with_name("cut")
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "update-000004")
    runner.run(recipe, Registry(), resume=cut, quiet=True)
    before, after = tensors(whole, 4), tensors(cut, 4)
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    rates = [[line["optimizer/lr"] for line in logged(folder)] for folder in (whole, cut)]
    assert rates[0] == rates[1]
    assert len(set(rates[0])) > 2


def test_resume_refuses_another_recipe(tiny: Make, finished: Path) -> None:
    rate = tiny().values["optimizer"]["lr"]
    with pytest.raises(UserError, match=rf"optimizer\.lr was {rate}, is 0\.1"):
        runner.run(tiny("optimizer.lr=0.1"), Registry(), resume=finished, quiet=True)


def test_the_run_folders_own_recipe_resumes_it(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    shutil.rmtree(folder / "checkpoints" / "update-000004")
    from core.commands.run import main

    assert main(["--resume", str(folder), "--quiet"]) == 0
    assert (folder / "checkpoints" / "update-000004").is_dir()


def test_checkpoints_hold_the_four_groups_only_and_keep_the_newest(tiny: Make) -> None:
    folder = go(tiny("checkpoint={every: 1, keep: 2}"))
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["update-000003", "update-000004"]
    names = set(load_file(folder / "checkpoints" / "update-000004" / "trained.safetensors"))
    assert {name.split("/")[0] for name in names} == {"projector", "text_hidden_fcs", "lora", "sam2_decoder"}
    assert not any("embed_tokens" in name or "lm_head" in name for name in names)


def test_frozen_tensors_keep_their_bytes_and_trained_ones_move(tiny: Make, tmp_path: Path) -> None:
    run = built(tiny("optimizer.lr=0.01"), tmp_path / "run")
    start = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    for number in range(3):
        run.trainer.update(number)
    trained = {name for members in run.model.trainable().values() for name, _ in members}
    moved = {name.removeprefix("network.") for name, tensor in run.model.state_dict().items() if not torch.equal(tensor, start[name])}
    assert moved <= trained
    for group, members in run.model.trainable().items():
        assert any(name in moved for name, _ in members), group


def plain_step(run: runner.Run, weights: dict[str, float], number: int) -> None:
    """What textbook training does: one loss, one backward, clip, step. No Gram matrix, no flat buffers."""
    loss = torch.zeros(())
    for name, weight in weights.items():
        loop, noise = run.trainer.loops[name], RunNoise(run.trainer.seed, number)
        micro_batches = loop.feed.update()
        counts: dict[str, int] = {}
        for micro in micro_batches:
            for task, batch in micro.parts:
                for term, count in loop.tasks[task].counts(run.model, batch, noise).items():
                    counts[term] = counts.get(term, 0) + count
        for i, micro in enumerate(micro_batches):
            torch.manual_seed(derived_seed(run.trainer.seed, number, name, 0, i))
            for task, batch in micro.parts:
                terms = loop.tasks[task](run.model, run.teacher, batch, noise).terms
                for term, value in terms.items():
                    loss = loss + weight * value.weight * value.total / counts[term]
    run.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for members in run.model.trainable().values() for _, p in members], 1.0)
    run.optimizer.step()
    run.trainer.rate.step()
    run.teacher.update()


@pytest.mark.parametrize(
    ("overrides", "weights"),
    [
        (["gradient={use: sum}"], {"loop1": 1.0, "loop2": 0.5}),
        (["loops.loop2=null", "gradient={use: pcgrad_orthogonal, anchor: loop1}", "schedule.order=[loop1]"], {"loop1": 1.0}),
        (["loops.loop1=null", "gradient={use: pcgrad}", "schedule.order=[loop2]"], {"loop2": 0.5}),
    ],
    ids=["sum is the weighted loss", "loop 1 alone", "loop 2 alone"],
)
def test_equals_plain_training(tiny: Make, tmp_path: Path, overrides: list[str], weights: dict[str, float]) -> None:
    # a large eps: Adam with the usual one turns the rounding of near-zero gradients into whole steps
    overrides = [*overrides, "optimizer.eps=1.0e-3", "optimizer.lr=0.01", "train.batch_size=2", "train.accumulate=2"]
    ours, theirs = built(tiny(*overrides), tmp_path / "a"), built(tiny(*overrides), tmp_path / "b")
    for number in range(3):
        ours.trainer.update(number)
        plain_step(theirs, weights, number)
    for group, members in ours.model.trainable().items():
        for (name, mine), (_, other) in zip(members, theirs.model.trainable()[group], strict=True):
            assert torch.allclose(mine, other, atol=2e-6), (name, (mine - other).abs().max())


def test_the_update_is_orthogonal_to_the_anchor_in_a_real_run(tiny: Make, tmp_path: Path) -> None:
    """The step's auxiliary part, taken from real gradients of both loops, has no component along loop 1's."""
    run = built(tiny(), tmp_path / "run")
    seen: dict[str, torch.Tensor] = {}
    step = run.trainer.strategy.step

    def spy(gradients, weights):
        for name, gradient in zip(("g1", "g2"), gradients, strict=True):
            seen[name] = torch.cat(list(gradient.flat.values())).double()
        seen["weights"] = weights
        norm = step(gradients, weights)
        seen["combined"] = torch.cat(list(gradients[0].flat.values())).double() * max(1.0, norm)
        return norm

    run.trainer.strategy.step = spy
    run.trainer.update(0)
    auxiliary = float(seen["weights"][0, 0]) * seen["g1"] + 0.5 * seen["g2"] - seen["g1"]
    cosine = auxiliary @ seen["g1"] / (auxiliary.norm() * seen["g1"].norm())
    assert abs(float(cosine)) < 1e-6
    assert seen["g2"].norm() > 0
    assert torch.allclose(seen["combined"], auxiliary + seen["g1"], atol=1e-5 * float(seen["g1"].norm()))


def test_nan_stops_the_run_and_names_the_batch(tiny: Make, tmp_path: Path) -> None:
    plugin = tmp_path / "nan_loss.py"
    plugin.write_text(
        "from __future__ import annotations\n"
        "import torch\n"
        "class Nan:\n"
        "    weight = 1.0\n"
        "    def __call__(self, states, tokens, head):\n"
        "        return states.sum() * float('nan')\n"
    )
    recipe = tiny(f"loops.loop2.tasks.cycle.losses.caption={{use: '{plugin}:Nan'}}")
    with pytest.raises(UserError, match=r"the loss of loop2 in update 0 is NaN or Inf; .* ids are in .*not_finite-000000\.json"):
        runner.run(recipe, Registry(), quiet=True)
    [folder] = Path(recipe.values["output"]).iterdir()
    report = json.loads((folder / "not_finite-000000.json").read_text())
    assert {task: len(ids) for task, ids in report["samples"].items()} == {"loop2/cycle": 4}
    assert (folder / "nan_loss.py").is_file()  # the run can be repeated from its folder


def test_a_run_leaves_what_a_reader_needs(tiny: Make) -> None:
    recipe = tiny(
        "train.evaluate=before_and_after",
        "train.updates=2",
        "checkpoint.export=true",
        "track={tensorboard: {use: tensorboard}}",
        "evaluate={referring: {use: refcoco, max_new_tokens: 4, max_samples: 3, "
        "data: {use: refcoco, root: '${data.world}/ref_seg', split: val}}}",
    )
    folder = go(recipe)
    result = json.loads((folder / "result.json").read_text())
    assert set(result["before"]["referring"]) == set(result["after"]["referring"]) >= {"cIoU", "gIoU", "no_seg_share"}
    for name in ("recipe.yaml", "metrics.jsonl", "result.md", "pictures_before.png", "pictures_after.png", "export/model.safetensors"):
        assert (folder / name).stat().st_size > 0, name
    line = logged(folder)[-1]
    for name in (
        "loop1/loss",
        "loop2/loss",
        "loop1/referring/mask",
        "loop2/cycle/caption",
        "surgery/cosine/loop1_loop2",
        "optimizer/grad_norm",
    ):
        assert name in line, name


def test_eight_gpus_are_refused_with_the_way_out(tiny: Make) -> None:
    with pytest.raises(UserError, match=r"asks for 8 GPUs, \d found; .*launch\.device=cpu"):
        runner.run(tiny("launch={strategy: deepspeed, processes: 8, device: cuda}"), Registry(), quiet=True)


def test_real_photographs_train_with_finite_losses(tiny: Make, samples: Path) -> None:
    tree = samples / "fabricated"
    folder = go(
        tiny(
            f"loops.loop1.tasks.pseudo.data={{sav: {{use: sav.pairs, root: {samples}/sav_npz}}, "
            f"openimages: {{use: openimages, root: {samples}/openimages}}, sa1b: {{use: sa1b, root: {tree}/sa1b}}}}",
            f"loops.loop1.tasks.referring.data={{refcoco: {{use: refcoco, root: {tree}/ref_seg, split: train}}}}",
            f"loops.loop2.tasks.cycle.data={{coco: {{use: dam.cocostuff, root: {tree}/describe-anything-dataset}}, "
            f"sav: {{use: dam.sav, root: {tree}/describe-anything-dataset}}}}",
            "loops.loop2.tasks.cycle.data={cocostuff: null, lvis: null, mapillary: null, openimages: null, paco: null}",
            "train.max_bad_fraction=1.0",
        )
    )
    lines = logged(folder)
    assert len(lines) == 4
    assert all(torch.isfinite(torch.tensor(line["loop1/loss"] + line["loop2/loss"])) for line in lines)


def test_bad_samples_are_logged_summed_up_and_named(tiny: Make, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(world / "sa1b", tmp_path / "sa1b")
    for picture in sorted(copy.glob("*.jpg"))[1:]:
        picture.write_bytes(picture.read_bytes()[:300])
    folder = go(tiny(f"loops.loop1.tasks.pseudo.data.sa1b.root={copy}", "train.max_bad_fraction=1"))
    lines = [json.loads(line) for line in (folder / "bad_samples.jsonl").read_text().splitlines()]
    source = "loops.loop1.tasks.pseudo.data.sa1b"
    assert {(line["source"], line["reason"]) for line in lines} == {(source, "damaged picture")}
    assert all(line["sample"].startswith("sa_") and ".jpg" in line["detail"] for line in lines)
    values = [values.get(f"bad/{source}/damaged picture", 0) for values in logged(folder)]
    assert values == [sum(line["update"] == update for line in lines) for update in range(4)]
    shown = " ".join(capsys.readouterr().out.split())
    assert f"bad samples: {len(lines)} x {source}: damaged picture; " in shown
    assert "jsonl name them" in shown


def test_the_readmes_own_component_runs(tiny: Make, tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    plugin = tmp_path / "mine.py"
    plugin.write_text(readme.split("```python\n")[1].split("```")[0])
    folder = go(tiny(f"gradient={{use: '{plugin}:Half', anchor: loop1}}", "train.updates=1"))
    assert logged(folder)[0]["surgery/weight/loop2"] == 0.25


def test_the_trained_shares_are_told(tiny: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny("train.updates=1")
    assert runner.run(recipe, Registry()) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("trained: ")]
    run = built(recipe, tmp_path / "again")
    whole = sum(p.numel() for p in run.model.parameters())  # type: ignore[attr-defined]
    numbers = {group: sum(p.numel() for _, p in members) for group, members in run.model.trainable().items()}
    assert [line.split(",")[0].removeprefix("trained: ") for line in lines] == [*numbers, "in all"]
    assert lines[0].endswith(f"{numbers['projector']:,} parameters, {100 * numbers['projector'] / whole:.2f}% of {whole:,}")
    assert f" {sum(numbers.values()):,} parameters, " in lines[-1]


@pytest.mark.parametrize("fault", ["build", "room", "read-only"])
def test_a_run_that_cannot_be_built_leaves_no_folder(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    folder = go(tiny())
    if fault == "room":
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 0))  # type: ignore[attr-defined]
    if fault == "read-only":  # as the system answers for such a disk, whoever asks
        monkeypatch.setattr(checkpoint.os, "access", lambda folder, mode: False)
    broken = tiny(*[f"model.checkpoint={tmp_path}/nowhere"] * (fault == "build"))
    with pytest.raises(UserError):
        runner.run(broken, Registry(), quiet=True)
    assert list((tmp_path / "runs").iterdir()) == [folder]
    longer = tiny("train.updates=5", *[f"model.checkpoint={tmp_path}/nowhere"] * (fault == "build"))
    with pytest.raises(UserError):  # what was there before stays
        runner.run(longer, Registry(), quiet=True, resume=folder)
    assert list((tmp_path / "runs").iterdir()) == [folder]


def test_a_task_that_reaches_no_trained_weight_is_named(tiny: Make, tmp_path: Path) -> None:
    run = built(tiny("model.train=[sam2_decoder]", "model.lora=null", "gradient={use: sum}"), tmp_path / "run")
    with pytest.raises(UserError, match=r"loop2/cycle: no loss of it reaches a trained weight; train a group"):
        run.trainer.update(0)


def test_several_threads_sum_in_one_order(tiny: Make, tmp_path: Path) -> None:
    torch.use_deterministic_algorithms(False)
    built(tiny(), tmp_path)
    table = torch.randn(8, 64, requires_grad=True)
    rows, factors = torch.randint(8, (20000,)), torch.randn(20000, 64)
    torch.set_num_threads(2)
    try:
        gradients = [torch.autograd.grad((table[rows] * factors).sum(), table)[0] for _ in range(10)]
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
