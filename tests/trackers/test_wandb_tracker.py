"""Real offline runs of the real wandb, read back from its files; no network."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.contracts import Picture, RunInfo, Sample, Tracker
from plugins.trackers import wandb as module
from plugins.trackers._wandb_file import drop_after, records, written
from plugins.trackers.wandb import Wandb, has_key


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def inspect(file: Path) -> dict[str, list[dict]]:
    """The records of an offline run as W&B's own reader gives them, by type."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, list[dict]] = defaultdict(list)
    for line in done.stdout.splitlines():
        record = json.loads(line)
        found[record["type"]].append(record[record["type"]])
    return found


def parts(folder: Path) -> list[dict[str, list[dict]]]:
    return [inspect(file) for file in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]


RECIPE = {
    "name": "dual-loop",
    "seed": 7,
    "model": {"use": "sa2va"},
    "loops": {"loop1": {"tasks": {"pseudo": {"use": "m", "losses": {"mask": {"use": "bce_dice"}}}}}},
    "gradient": {"use": "sum"},
    "evaluate": {"referring": {"use": "refcoco"}},
}


def test_an_offline_run_reads_back_and_resumes_as_one_run(tmp_path, capfd):
    folder = tmp_path / "runs" / "first"
    sheet = tmp_path / "sheet.png"
    Image.new("RGB", (8, 8), "red").save(sheet)
    mask = np.eye(8, dtype=bool)
    picture = Picture("the red square", np.zeros((8, 8, 3), np.uint8), mask, ~mask, "Sure, [SEG].", 0.5)
    (folder / "checkpoints" / "update-000003").mkdir(parents=True)
    (folder / "checkpoints" / "update-000003" / "state.json").write_text("{}")
    for resumed_at in (0, 2):
        tracker = Wandb(project="p", tags=["t"], checkpoints=True)
        assert isinstance(tracker, Tracker)
        tracker.start(RunInfo(folder, "dual-loop", RECIPE, resumed_at))
        values = {"loop1/loss": 0.5, "loop1/pseudo/mask": 0.25, "surgery/cosine/loop1_loop2": -0.25, "time/samples_per_s": 8.0}
        tracker.log(resumed_at + 1, values)
        tracker.log(resumed_at + 2, values | {"loop1/loss": 0.75})
        tracker.picture(resumed_at + 2, "pictures/after", sheet)
        tracker.panels(resumed_at + 2, "pictures/after", [picture] * 9)
        tracker.finish({"referring/cIoU": 0.75})
        time.sleep(1.1)  # wandb names a part's folder by the second in which it began

    first, second = parts(folder)
    # groups, tags and config; one id for both parts
    runs = [part["run"][0] for part in (first, second)]
    assert runs[0]["run_id"] == runs[1]["run_id"] == (folder / "wandb_id").read_text().strip()
    assert (runs[0]["project"], runs[0]["run_group"], runs[0]["display_name"]) == ("p", "dual-loop", "first")
    assert runs[0]["tags"] == ["gradient:sum", "model:sa2va", "loop:loop1", "t"]
    config = runs[0]["config"]["update"]
    assert {name: value for name, value in config.items() if name != "_wandb"} == RECIPE
    # clocks and summaries
    metrics = {metric.get("name") or metric["glob_name"]: metric for metric in first["metric"]}
    assert metrics["loop1/loss"]["step_metric"] == metrics["loop1/pseudo/mask"]["step_metric"] == "update"
    assert metrics["referring/*"]["step_metric"] == "evaluation/update"
    assert metrics["loop1/loss"]["summary"] == {"min": True, "last": True}
    assert metrics["surgery/*"]["summary"] == {"mean": True, "last": True}
    # names and values, on W&B's own step as well
    rows = [[record["item"] for record in part["history"]] for part in (first, second)]
    assert [[row["_step"] for row in part] for part in rows] == [[1, 2], [3, 4]]
    assert {name: value for name, value in rows[0][0].items() if not name.startswith("_")} == values | {"update": 1}
    last = rows[0][1]
    assert (last["evaluation/update"], last["referring/cIoU"]) == (2, 0.75)
    assert last["pictures/after._type"] == "image-file"
    assert last["pictures/after.caption"] == "update 2"
    assert last["pictures/after/panels.count"] == 8  # of nine
    assert "the red square | Sure, [SEG]. | score 0.50" in json.dumps(last)
    assert "mask-file" not in json.dumps(rows[0][0])
    summary = {name: value for record in first["summary"] for name, value in record["update"].items()}
    assert summary["loop1/loss"] == {"min": 0.5, "last": 0.75}
    assert summary["referring/cIoU"] == 0.75
    assert [record["name"] for record in first["artifact"]] == [f"checkpoint-{runs[0]['run_id']}"]
    assert capfd.readouterr() == ("", "")  # it leaves the console to the progress display


@pytest.mark.parametrize("resumed_at", [2, 0])  # 0: the run ended before its first checkpoint
def test_no_step_stands_twice_after_a_resume(tmp_path, resumed_at):
    for start in (0, resumed_at):
        tracker = Wandb(project="p")
        tracker.start(RunInfo(tmp_path, "r", RECIPE, start))
        for update in range(start + 1, 5):
            tracker.log(update, {"loop1/loss": float(update), "long" * 20000: 1.0})  # its record lies in several blocks
        if start == resumed_at:
            tracker.finish({"referring/cIoU": 0.5})
        else:
            tracker._run.finish()  # as far as it came
        time.sleep(1.1)
    first, second = parts(tmp_path)
    assert {part["run"][0]["run_id"] for part in (first, second)} == {(tmp_path / "wandb_id").read_text().strip()}
    steps = [record["item"]["_step"] for part in (first, second) for record in part.get("history", [])]
    assert steps == [1, 2, 3, 4]
    assert "exit" in first  # what is no row stays


def test_rows_are_taken_out_of_a_file_that_was_cut(tmp_path):
    from wandb.proto.wandb_internal_pb2 import Record

    def row(step):
        record = Record()
        item = record.history.item.add()
        item.nested_key.append("_step")
        item.value_json = str(step)
        return record.SerializeToString()

    rows = [row(step) for step in range(5)]
    file = tmp_path / "run.wandb"
    file.write_bytes(written([*rows, b"x" * 70000])[:-3])
    assert list(records(file)) == rows
    assert drop_after(file, 2) == 2
    assert list(records(file)) == rows[:3]
    (tmp_path / "other").write_bytes(b"no W&B file")
    assert drop_after(tmp_path / "other", 0) == 0


def test_samples_are_a_table_of_texts_and_masks(tmp_path):
    mask = np.eye(8, dtype=bool)
    samples = [Sample("t", np.zeros((8, 8, 3), np.uint8), mask, ~mask, score=0.5, id="a", texts={"teacher": "x", "student": "y"})]
    tracker = Wandb(project="p")
    tracker.start(RunInfo(tmp_path, "r", RECIPE | {"train": {"evaluate_every": 2, "samples_every": 2}}, 0))
    tracker.log(2, {"loop1/loss": 0.5, "evaluation/referring/cIoU": 0.25})
    tracker.training_samples(2, "samples/loop1/pseudo", samples)
    tracker.finish({})
    [part] = parts(tmp_path)
    clocks = {metric.get("name") or metric["glob_name"]: metric.get("step_metric") for metric in part["metric"]}
    assert clocks["evaluation/*"] == clocks["samples/*"] == "update"
    [row] = [record["item"] for record in part["history"]]
    assert row["evaluation/referring/cIoU"] == 0.25
    assert row["samples/loop1/pseudo._type"] == "table-file"
    [table] = tmp_path.glob("wandb/offline-run-*/files/media/table/samples/loop1/*.table.json")
    written = json.loads(table.read_text())
    assert written["columns"] == ["id", "picture", "teacher", "student", "IoU"]
    assert [written["data"][0][i] for i in (0, 2, 3, 4)] == ["a", "x", "y", 0.5]
    [artifact] = part["artifact"]  # the whole table: its pictures and their masks
    held = [entry["path"].rsplit("/", 1)[0] for entry in artifact["manifest"]["contents"]]
    assert (held.count("media/images"), held.count("media/images/mask")) == (1, 2)


def test_no_checkpoint_leaves_the_machine_unasked(tmp_path):
    (tmp_path / "checkpoints" / "update-000001").mkdir(parents=True)
    tracker = Wandb(project="p")
    tracker.start(RunInfo(tmp_path, "r", {}, 0))
    tracker.finish({})
    assert "artifact" not in parts(tmp_path)[0]


def test_a_key_is_found_where_wandb_looks(tmp_path, monkeypatch):
    assert not has_key()
    (tmp_path / "netrc").write_text("machine example.org login a password b\ndefault login a password b\n")
    assert not has_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x\n")
    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert has_key()


def modes_tried(monkeypatch, tracker, folder, fails=None):
    """The modes in which the tracker calls wandb.init; ``fails``: the error of an online one."""
    import wandb

    tried = []

    class Run:
        def define_metric(self, *args, **kwargs):
            pass

    def init(**settings):
        tried.append(settings["mode"])
        if fails and settings["mode"] == "online":
            raise fails
        return Run()

    monkeypatch.setattr(wandb, "init", init)
    tracker.start(RunInfo(folder, "r", {}, 0))
    return tried


def test_mode_auto(tmp_path, monkeypatch):
    import wandb

    assert modes_tried(monkeypatch, Wandb(project="p"), tmp_path) == ["offline"]
    monkeypatch.setattr(module, "has_key", lambda: True)
    assert modes_tried(monkeypatch, Wandb(project="p"), tmp_path) == ["online"]
    unreachable = wandb.errors.CommError("no route")
    with pytest.warns(UserWarning, match="cannot be reached or refuses the key: this run is kept offline, for wandb sync"):
        assert modes_tried(monkeypatch, Wandb(project="p"), tmp_path, unreachable) == ["online", "offline"]
    with pytest.raises(wandb.errors.CommError):
        modes_tried(monkeypatch, Wandb(project="p", mode="online"), tmp_path, unreachable)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert modes_tried(monkeypatch, Wandb(project="p"), tmp_path) == ["offline"]


def test_parameters():
    with pytest.raises(ValueError, match="project must"):
        Wandb(project="a/b")
    with pytest.raises(ValueError, match="mode must"):
        Wandb(project="a", mode="of")
    with pytest.raises(ValueError, match="panels must"):
        Wandb(project="a", panels=-1)
