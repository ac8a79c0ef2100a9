"""Real offline runs of the real wandb, read back from its files; no network."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from wandb.proto import wandb_internal_pb2

from core.contracts import RunInfo, Tracker
from plugins.trackers import wandb as module
from plugins.trackers.wandb import Wandb, has_key


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def records(path: Path) -> Iterator[wandb_internal_pb2.Record]:
    """The records of a .wandb file: a LevelDB log with blocks of 32 KiB behind a header of 7 bytes."""
    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, last
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def history(folder: Path) -> list[dict]:
    rows = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in records(path):
            if record.WhichOneof("record_type") == "history":
                rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item})
    return rows


def test_offline_run_reads_back_and_resumes_as_one_run(tmp_path, capfd):
    folder = tmp_path / "runs" / "first"
    picture = tmp_path / "sheet.png"
    Image.new("RGB", (8, 8), "red").save(picture)
    recipe = {"seed": 7, "optimizer": {"use": "adamw", "lr": 0.1}}
    for resumed_at in (0, 2):
        tracker = Wandb(project="p", tags=["t"])
        assert isinstance(tracker, Tracker)
        tracker.start(RunInfo(folder, "dual-loop", recipe, resumed_at))
        tracker.log(resumed_at + 1, {"loss/loop1": 0.5, "gradient/cosine": -0.25})
        tracker.picture(resumed_at + 1, "sheet", picture)
        tracker.finish({"refcoco/cIoU": 0.75})
        time.sleep(1.1)  # wandb names a part's folder by the second in which it began

    rows = history(folder)
    logged = [{name: row[name] for name in row if not name.startswith("_")} for row in rows]
    assert logged[0] == {"update": 1, "loss/loop1": 0.5, "gradient/cosine": -0.25}
    assert [row["update"] for row in logged] == [1, 1, 3, 3]
    assert logged[1]["sheet/_type"] == "image-file"

    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    first, second = (list(records(path)) for path in files)
    runs = [next(r.run for r in part if r.WhichOneof("record_type") == "run") for part in (first, second)]
    assert runs[0].run_id == runs[1].run_id == (folder / "wandb_id").read_text().strip()
    assert (runs[0].project, runs[0].run_group, runs[0].display_name, list(runs[0].tags)) == ("p", "dual-loop", "first", ["t"])
    config = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert config["seed"] == 7
    assert config["optimizer"] == {"use": "adamw", "lr": 0.1}
    metrics = {r.metric.name or r.metric.glob_name: r.metric.step_metric for r in first if r.WhichOneof("record_type") == "metric"}
    assert metrics["*"] == "update"
    summary = {i.key or "/".join(i.nested_key): i.value_json for r in first for i in r.summary.update}
    assert summary["refcoco/cIoU"] == "0.75"
    assert capfd.readouterr() == ("", "")  # it leaves the console to the progress display


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
