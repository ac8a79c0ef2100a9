"""One run in three trackers: the names and values are the same everywhere."""

from __future__ import annotations

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_wandb_tracker import no_account, parts  # noqa: F401

from core.contracts import RunInfo
from core.engine.tracking import Trackers
from plugins.trackers.jsonl import Jsonl
from plugins.trackers.tensorboard import Tensorboard
from plugins.trackers.wandb import Wandb

ROWS = [{"loop1/loss": 0.5, "surgery/cosine/loop1_loop2/lora": -0.25}, {"loop1/loss": 0.25, "time/update_s": 2.0}]
SUMMARY = {"referring/cIoU": 0.75}


def test_names_and_values_are_the_same(tmp_path):
    trackers = Trackers({"jsonl": Jsonl(), "tensorboard": Tensorboard(), "wandb": Wandb(project="p")}, warn=pytest.fail)
    trackers.start(RunInfo(tmp_path, "r", {"evaluate": {"referring": {}}}, 0))
    for update, row in enumerate(ROWS, 1):
        trackers.log(update, row)
    trackers.finish(SUMMARY)

    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [{k: v for k, v in line.items() if k not in ("update", "time")} for line in lines] == ROWS
    assert json.loads((tmp_path / "metrics_summary.json").read_text()) == SUMMARY

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    drawn = {name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]}
    assert [{name: steps[update] for name, steps in drawn.items() if update in steps} for update in (1, 2)] == [ROWS[0], ROWS[1] | SUMMARY]

    rows = [record["item"] for record in parts(tmp_path)[0]["history"]]
    clocks = ("update", "evaluation/update")
    named = [{name: value for name, value in row.items() if not name.startswith("_") and name not in clocks} for row in rows]
    assert named == [ROWS[0], ROWS[1] | SUMMARY]
