"""What happens between updates: evaluations that change nothing, the best checkpoint, an early end, samples."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from core.checkpoints.trained_weights import find_checkpoint
from core.contracts import UserError
from core.engine import demands, runner
from core.engine.best import Watch
from core.engine.launch import stopping
from core.engine.parallel.exchange import join
from core.engine.samples import first
from core.recipe import Recipe, check, load
from core.registry import Registry
from core.testing.tiny_model import TinyModel, regions
from tests.engine.distributed_worker import start_ranks

ROOT = Path(__file__).parents[2]
Make = Callable[..., Recipe]

#: Gives the next of some numbers, kept in a file, and draws from every global generator. ``stop``: the evaluation in which a signal comes.
SCRIPTED = """
from __future__ import annotations
import random
import signal
from pathlib import Path
import numpy as np
import torch
from core.engine.launch import stopping
class Scripted:
    def __init__(self, *, values: list[float], made: Path, stop: int = 0) -> None:
        self.values, self.made, self.stop = values, made, stop
    def __len__(self):
        return 3
    def measure(self, model, unit):
        random.random(), np.random.rand(), torch.rand(1)
        done = len(self.made.read_text()) if self.made.is_file() else 0
        if unit == 2:
            self.made.write_text("x" * (done + 1))
        if done + 1 == self.stop and unit == 1:
            stopping._State.asked = signal.SIGTERM
        return [{"id": str(unit), "value": self.values[done]}]
    def tally(self, items):
        return {"sum": np.array([item["value"] for item in items]), "n": np.ones(len(items))}
    def metrics(self, sums):
        return {"mean": sums["sum"] / sums["n"], "n_items": sums["n"]}
"""


@pytest.fixture
def scripted(tiny: Make, tmp_path: Path) -> Make:
    """The small recipe with an evaluator ``score`` of the given values after every update; ``score/mean`` is watched."""

    def make(values: list[float], *overrides: str, stop: int = 0) -> Recipe:
        (tmp_path / "scripted.py").write_text(SCRIPTED)
        made = tmp_path / "made"
        made.unlink(missing_ok=True)
        numbers = ", ".join(".nan" if value != value else str(value) for value in values)  # as YAML writes it
        evaluator = f"{{use: '{tmp_path}/scripted.py:Scripted', values: [{numbers}], made: '{made}', stop: {stop}}}"
        return tiny(
            f"evaluate={{referring: null, caption: null, score: {evaluator}}}",
            "train.evaluate_every=1",
            "checkpoint={every: 4, keep: 1, best: score/mean}",
            "train.batch_size=2",
            *overrides,
        )

    return make


def run(recipe: Recipe, resume: Path | None = None) -> Path:
    assert runner.run(recipe, Registry(), resume=resume, quiet=True) == 0
    return max(Path(recipe.values["output"]).iterdir(), key=lambda folder: folder.stat().st_mtime_ns)


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def state(folder: Path, update: int) -> dict:
    return json.loads((folder / "checkpoints" / f"update-{update:06d}" / "state.json").read_text())


def test_a_run_is_the_same_with_evaluations_and_samples_and_keeps_the_best(scripted: Make, tiny: Make) -> None:
    plain = run(tiny("train.batch_size=2", "checkpoint={every: 4, keep: 1}"))
    watched = run(scripted([0.25, 0.5, float("nan"), 0.375], "train.samples_every=2", "train.samples=1"))
    assert saved(plain) == ["update-000004"]
    assert saved(watched) == ["best.json", "update-000002", "update-000004"]
    for file in ("trained", "optimizer", "teacher"):
        mine, other = (folder / "checkpoints" / "update-000004" / f"{file}.safetensors" for folder in (watched, plain))
        assert mine.read_bytes() == other.read_bytes(), file
    # what is logged, and what is not where nothing is asked for
    assert [line.get("evaluation/score/mean") for line in lines(watched)] == [0.25, 0.5, None, 0.375]
    drop = ("time", "memory", "evaluation", "non_finite")
    assert [
        [{name: value for name, value in line.items() if not name.startswith(drop)} for line in lines(folder)] for folder in (watched,)
    ] == [[{name: value for name, value in line.items() if not name.startswith(drop)} for line in lines(plain)]]
    assert not any(name.startswith("evaluation") for line in lines(plain) for name in line)
    assert "evaluations" not in state(plain, 4)
    assert not (plain / "samples").exists()
    # the best one, and the result
    assert json.loads((watched / "checkpoints" / "best.json").read_text()) == {"update": 2, "metric": "score/mean", "value": 0.5}
    assert find_checkpoint(watched / "checkpoints" / "best")[0] == watched / "checkpoints" / "update-000002"
    result = json.loads((watched / "result.json").read_text())
    means = [(one["update"], one["metrics"]["score"]["mean"]) for one in result["during"]]
    assert means == [(1, 0.25), (2, 0.5), (3, None), (4, 0.375)]
    assert result["after"] == {"score": {"mean": 0.375, "n_items": 3.0, "n_bad": 0.0}}  # the last one, not measured again
    assert result["best"].startswith("score/mean 0.5 after update 2, ")
    assert "during" not in json.loads((plain / "result.json").read_text())
    # the samples
    names = [f"update-00000{update}.{kind}" for update in (2, 4) for kind in ("json", "png")]
    assert sorted(path.name for path in (watched / "samples").iterdir()) == names
    shown = json.loads((watched / "samples" / "update-000002.json").read_text())
    assert shown["update"] == 2
    assert set(shown["samples"]) == {"loop1/pseudo", "loop1/referring", "loop2/cycle"}
    assert [len(samples) for samples in shown["samples"].values()] == [1, 1, 1]
    [sample] = shown["samples"]["loop1/pseudo"]
    assert list(sample["texts"]) == ["teacher", "replaced", "student"]
    assert 0 <= sample["iou"] <= 1


def test_an_update_of_loops_that_show_nothing_leaves_no_samples(tiny: Make) -> None:
    words = (
        "{use: phrase_to_mask, losses: {mask: {use: bce_dice, points: 64}}, data: {refs: {use: refcoco, root: '${data.world}/ref_seg'}}}"
    )
    folder = run(
        tiny(
            f"loops.loop1.tasks={{pseudo: null, referring: null, words: {words}}}",
            "schedule={use: stages, stages: [{loops: [loop1], until: 1}, {loops: [loop2]}]}",
            "train={updates: 2, samples_every: 1, samples: 1}",
        )
    )
    assert sorted(path.name for path in (folder / "samples").iterdir()) == ["update-000002.json", "update-000002.png"]


def test_training_ends_early_and_goes_on_with_more_patience(scripted: Make, capsys: pytest.CaptureFixture[str]) -> None:
    values = [0.25, 0.5, 0.5, 0.25, 0.125, 0.25]
    folder = run(scripted(values, "train.updates=6", "train.patience=2"))
    assert saved(folder) == ["best.json", "update-000002", "update-000004"]
    words = "stopped early: after update 4: score/mean has not been better than 0.5 (update 2) for 2 evaluations"
    assert words in capsys.readouterr().out
    assert words in (folder / "result.md").read_text()
    (folder / "checkpoints" / "best.json").unlink()  # as if it had been killed after the checkpoint and before this file
    trained = (folder / "checkpoints" / "update-000004" / "trained.safetensors").read_bytes()
    run(scripted(values, "train.updates=6", "train.patience=2"), folder)
    assert words in capsys.readouterr().out
    assert saved(folder) == ["best.json", "update-000002", "update-000004"]
    assert (folder / "checkpoints" / "update-000004" / "trained.safetensors").read_bytes() == trained
    assert json.loads((folder / "checkpoints" / "best.json").read_text())["update"] == 2
    assert [line["update"] for line in lines(folder)] == [1, 2, 3, 4]
    run(scripted([0.125, 0.75], "train.updates=6", "train.patience=4"), folder)
    assert saved(folder) == ["best.json", "update-000006"]
    kept = state(folder, 6)["evaluations"]
    assert [one["update"] for one in kept["history"]] == [1, 2, 3, 4, 5, 6]
    assert (kept["update"], kept["value"], kept["without"]) == (6, 0.75, 0)


def test_an_evaluation_that_a_signal_cut_short_is_made_up_for(scripted: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = scripted([0.25, 0.5, 0.75], "train.updates=3", stop=2)
    with stopping.listening(), pytest.raises(stopping.Stopped, match="after update 2 of 3"):
        runner.run(recipe, Registry(), quiet=True)
    [folder] = Path(recipe.values["output"]).iterdir()
    assert [one["update"] for one in state(folder, 2)["evaluations"]["history"]] == [1]
    run(scripted([0.5, 0.75], "train.updates=3"), folder)
    found = {update: line.get("evaluation/score/mean") for line in lines(folder) if (update := line["update"])}
    assert found == {1: 0.25, 2: 0.5, 3: 0.75}
    assert json.loads((folder / "checkpoints" / "best.json").read_text())["update"] == 3


def test_a_metric_that_is_not_there_is_named_with_those_that_are(scripted: Make) -> None:
    what = "checkpoint.best: no evaluation gives 'score/median'; there are score/mean, score/n_items, score/n_bad"
    recipe = scripted([0.5] * 3, "checkpoint.best=score/median", "train.evaluate=before_and_after")
    with pytest.raises(UserError, match=what):
        runner.run(recipe, Registry(), quiet=True)
    [folder] = Path(recipe.values["output"]).iterdir()
    assert all(line["update"] == 0 for line in lines(folder))  # before it trained


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.evaluate_every=2"], "train.evaluate_every: the recipe has no evaluators"),
        (
            ["checkpoint.best=a/b"],
            "checkpoint.best: write EVALUATOR/METRIC, .* not 'a/b'; the recipe has no evaluators",
        ),
        (["train.patience=2"], "train.patience: it counts evaluations without a better checkpoint.best"),
    ],
)
def test_what_needs_evaluations_asks_for_them(tiny: Make, overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        demands.require(tiny(*overrides).values)


def test_the_watched_metric_names_an_evaluator(scripted: Make) -> None:
    for best in ("other/mean", "score"):
        with pytest.raises(UserError, match=f"checkpoint.best: write EVALUATOR/METRIC.* not '{best}'; the evaluators are score"):
            demands.require(scripted([], f"checkpoint.best={best}").values)


def test_the_keys_in_the_documentation_are_the_recipes(tiny: Make) -> None:
    [keys] = [
        block for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "tracking.md").read_text(), re.DOTALL) if "patience" in block
    ]
    given = yaml.safe_load(keys)
    evaluator = "evaluate.referring={use: refcoco, data: {use: refcoco, root: '${data.world}/ref_seg', split: val}}"
    recipe = tiny(evaluator, *(f"{part}.{key}={value}" for part, values in given.items() for key, value in values.items()))
    demands.require(recipe.values)
    assert {key: recipe.values["train"][key] for key in given["train"]} == given["train"]
    shipped = (ROOT / "recipes" / "dual_loop_8gpu.yaml").read_text().splitlines()
    entry = yaml.safe_load("\n".join(line.removeprefix("#") for line in shipped if line.startswith(("#   evaluate:", "#     referring:"))))
    overrides = next(line for line in shipped if line.startswith("#   train.evaluate_every")).removeprefix("#").split()
    whole = load(ROOT / "recipes" / "dual_loop_8gpu.yaml", [f"evaluate={json.dumps(entry['evaluate'])}", *overrides])
    assert not check(whole, Registry())
    demands.require(whole.values)


def test_another_metric_begins_anew(scripted: Make) -> None:
    values = scripted([], "train.patience=2").values
    seen = Watch("score/mean")
    for update, value in enumerate((0.5, 0.25), start=1):
        seen.add(update, {"score": {"mean": value}})
    kept = json.loads(json.dumps(seen.state()))
    again = Watch.of(values, kept)
    assert (again.update, again.value, again.without, len(again.history)) == (1, 0.5, 1, 2)
    for change in ({"best": "score/n_items"}, {"best_is": "lowest"}):
        other = Watch.of(values | {"checkpoint": values["checkpoint"] | change}, kept)
        assert (other.update, other.value, other.without, len(other.history)) == (None, None, 0, 2)


def test_the_first_regions_of_a_batch_bring_only_their_pictures() -> None:
    model, given = TinyModel(), regions(3)
    batch = model.preparation.collate([model.preparation(given[i]) for i in (2, 0, 1)])
    batch.categories, batch.for_teacher = ["a", "b", "c"], model.preparation.collate([model.preparation(one) for one in given])
    part = first(batch, 2)
    assert (part.ids, part.categories, len(part.tile_counts), len(part.sam_pictures)) == (["region-2", "region-0"], ["a", "b"], 4, 4)
    for view in ("view1", "view2"):
        for name in ("sam_pictures", "tiles"):
            mine, whole = getattr(part, name)[getattr(part, view)], getattr(batch, name)[getattr(batch, view)[:2]]
            assert torch.equal(mine, whole), (view, name)
    assert torch.equal(part.mask2, batch.mask2[:2])
    assert part.for_teacher is not None
    assert len(part.for_teacher) == 2
    assert first(batch, 3) is batch


def both(files: list[str]) -> None:
    """Runs recipes one after the other on this rank."""
    ranks = join(load(Path(files[0])).values["launch"])
    leave, ranks.leave = ranks.leave, lambda: None  # type: ignore[method-assign]
    for file in files:
        assert runner._run(load(Path(file)), Registry(), None, True, 0, ranks) == 0
    leave()


#: Loops of the contract's small model: no checkpoint is read, and the ranks load no library of models.
SMALL = """
recipe: 1
name: {name}
seed: 1
output: {folder}/runs
model: {{use: "core.testing.tiny_model:TinyModel"}}
teacher: {{use: ema, decay: 0.9}}
loops:
  loop1:
    tasks:
      pseudo:
        use: mask_caption_mask
        caption_length: 5
        sampler: {{use: st_gumbel_topk, k: 4}}
        losses: {{mask: {{use: bce_dice, points: 16}}, answer: {{use: caption_ce}}}}
        data: {{made: {{use: ./parts.py:Made}}}}
  loop2:
    tasks:
      cycle:
        use: caption_mask_caption
        caption_length: 8
        losses: {{caption: {{use: caption_ce}}, answer: {{use: caption_ce}}}}
        data: {{made: {{use: ./parts.py:Made}}}}
optimizer: {{use: adamw, lr: 0.01}}
train: {{updates: 3, batch_size: 2, clip_norm: 1.0{train}}}
checkpoint: {{every: 3, keep: 1{checkpoint}}}
evaluate: {{score: {{use: ./parts.py:Drawing}}}}
launch: {{strategy: ddp, processes: 2, device: cpu}}
"""
PARTS = """
from __future__ import annotations
import random
import numpy as np
import torch
from core.testing.tiny_model import regions
class Made:
    def __init__(self):
        self.regions = regions(9)
    def __len__(self):
        return 9
    def __getitem__(self, index):
        return self.regions[index]
class Drawing:
    def __len__(self):
        return 3
    def measure(self, model, unit):
        random.random(), np.random.rand(), torch.rand(1)
        return [{"id": str(unit), "value": 4.0**unit}]
    def tally(self, items):
        return {"sum": np.array([item["value"] for item in items])}
    def metrics(self, sums):
        return sums
"""


def test_two_ranks_train_the_same_with_evaluations_and_samples(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text(PARTS)
    asked = {"train": ", evaluate_every: 1, samples_every: 2, samples: 1", "checkpoint": ", best: score/sum"}
    files = []
    for name, keys in {"plain": {"train": "", "checkpoint": ""}, "watched": asked}.items():
        (tmp_path / f"{name}.yaml").write_text(SMALL.format(name=name, folder=tmp_path, **keys))
        files.append(str(tmp_path / f"{name}.yaml"))
    start_ranks(2, both, files)
    plain, watched = (next((tmp_path / "runs").glob(f"{name}-*")) for name in ("plain", "watched"))
    for file in ("trained", "optimizer", "teacher"):
        mine, other = (folder / "checkpoints" / "update-000003" / f"{file}.safetensors" for folder in (watched, plain))
        assert mine.read_bytes() == other.read_bytes(), file
    assert [line["evaluation/score/sum"] for line in lines(watched)] == [21.0] * 3  # each unit once
    assert saved(watched) == ["best.json", "update-000001", "update-000003"]
    assert len(list((watched / "samples").glob("*.png"))) == 1
