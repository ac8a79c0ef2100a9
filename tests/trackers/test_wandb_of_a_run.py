"""A run of a sweep in real offline W&B files and TensorBoard's: names, groups, defaults, points before, during, after and later."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_wandb_tracker import no_account, parts  # noqa: F401

from core.commands import evaluate
from core.contracts import UserError
from core.engine import runner
from core.engine.sweep_point import keep_axes
from core.evaluation.source import read_job
from core.evaluation.tracked import Tracked
from core.recipe import Recipe
from core.registry import Registry


@pytest.fixture
def sweep(tiny_in: Callable[..., Recipe], tmp_path: Path, world: Path, no_account: None) -> Path:  # noqa: F811
    """A sweep's folder with one run of two updates."""
    folder = tmp_path / "tiny-sweep-20260103-100000"
    keep_axes(folder, ["seed", "gradient.use"])
    data = f"{{use: refcoco, root: {world}/ref_seg, split: val, text: sent, max_samples: 2}}"
    recipe = tiny_in(
        tmp_path,
        f"output={folder}",
        "train={updates: 2, batch_size: 1, accumulate: 1, evaluate: before_and_after, evaluate_every: 1, samples_every: 2, samples: 1}",
        f"evaluate.referring={{use: refcoco, max_new_tokens: 2, data: {data}}}",
        "track={wandb: {use: wandb, project: p}, tensorboard: {use: tensorboard}}",
    )
    assert runner.run(recipe, Registry(), quiet=True) == 0
    return folder


def rows(run: Path) -> Iterator[dict]:
    for part in parts(run):
        yield from (record["item"] for record in part.get("history", []))


def test_what_a_sweeps_run_sends_to_its_trackers(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [run] = (file.parent for file in sweep.glob("*/recipe.json"))
    [part] = parts(run)
    told = part["run"][0]
    config = told["config"]["update"]
    seed = json.loads((run / "recipe.json").read_text())["seed"]
    assert told["display_name"] == f"seed={seed}, gradient=pcgrad_orthogonal"
    assert told["run_group"] == sweep.name
    assert "scope" in config["gradient"], "a default, which the recipe does not give"
    # before, during and after
    seen = {row["_step"]: row for row in rows(run)}
    curve = "evaluation/referring/cIoU"
    assert [step for step, row in seen.items() if curve in row] == [0, 1, 2]
    before, after = (json.loads((run / "result.json").read_text())[when]["referring"]["cIoU"] for when in ("before", "after"))
    ends = [(row["evaluation/update"], row["referring/cIoU"]) for row in seen.values() if "referring/cIoU" in row]
    assert ends == [(0, before), (2, after)]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines if curve in line] == [0, 1, 2]
    assert [line["update"] for line in lines if "referring/cIoU" in line] == [0]
    # what the loops made of a region, as a table
    tables = list(run.glob("wandb/offline-run-*/files/media/table/samples/loop1/*.table.json"))
    columns = [json.loads(file.read_text())["columns"] for file in tables]
    assert ["id", "picture", "teacher", "replaced", "student", "IoU"] in columns
    # a folder of the sweep's offline runs, as W&B lays them out
    [file] = run.glob("wandb/offline-run-*/*.wandb")
    [link] = sweep.glob("wandb/offline-run-*/*.wandb")
    assert (link.parent.name, link.read_bytes()) == (file.parent.name, file.read_bytes())

    # a checkpoint measured later
    assert evaluate.main([str(run / "checkpoints" / "update-000002"), "--track", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "tracker wandb: results of update 2 are in " in said
    first, later = sorted(run.glob("wandb/offline-run-*/*.wandb"))
    assert first == file
    [second] = [part for part in parts(run) if part["run"][0]["run_id"] == told["run_id"]][1:]
    [row] = [record["item"] for record in second["history"]]
    card = json.loads((run / "evaluation" / "update-000002" / "referring" / "card.json").read_text())["results"]["referring"]["cIoU"]
    assert (row["evaluation/update"], row["referring/cIoU"], row["_step"]) == (2, card["value"], 3)
    assert [row["referring/cIoU/low"], row["referring/cIoU/high"]] == card["interval"]
    assert row["pictures/evaluated/referring._type"] == "image-file"
    assert later.name == file.name, "the same W&B run"
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert {event.step for event in events.Scalars("referring/cIoU")} == {0, 2}
    assert [event.step for event in events.Scalars("referring/cIoU/low")] == [2]
    # and it stays where the run goes on from an earlier checkpoint
    from plugins.trackers._wandb_file import drop_after

    assert (drop_after(later, 1), drop_after(file, 1)) == (0, 1)


def test_results_go_to_a_run_whose_trackers_take_them(finished: Path, small_checkpoint: Path, world: Path) -> None:
    about = ("refcoco", "refcoco", None, [f"root={world}/ref_seg", "split=val"])
    job, faults = read_job(finished, *about, Registry())
    assert not faults
    with pytest.raises(UserError, match=r"no tracker of .* takes results"):
        Tracked.of(job, Registry())
    job, _ = read_job(small_checkpoint, *about, Registry())
    with pytest.raises(UserError, match="--track needs a run"):
        Tracked.of(job, Registry())
