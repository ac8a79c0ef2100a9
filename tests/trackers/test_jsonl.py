from __future__ import annotations

import json

import pytest

from core.contracts import RunInfo, Tracker
from plugins.trackers.jsonl import Jsonl


def lines(folder, name="metrics.jsonl"):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in (folder / name).read_text().splitlines()]


def tracked(folder, updates, resumed_at=0):
    tracker = Jsonl()
    tracker.start(RunInfo(folder, "r", {}, resumed_at))
    for update in updates:
        tracker.log(update, {"loss/loop1": update / 10})
    return tracker


def test_one_line_for_each_update_readable_at_once(tmp_path):
    tracker = tracked(tmp_path, [1, 2])
    assert isinstance(tracker, Tracker)
    rows = lines(tmp_path)  # before finish: a killed run keeps its lines
    assert [(row["update"], row["loss/loop1"]) for row in rows] == [(1, 0.1), (2, 0.2)]
    assert rows[0]["time"] > 1.7e9


def test_non_finite_values_stay_strict_json(tmp_path):
    tracker = tracked(tmp_path, [])
    tracker.log(1, {"a": float("nan"), "b": float("-inf"), "c": 1.0})
    row = lines(tmp_path)[0]
    assert (row["a"], row["b"], row["c"], row["non_finite"]) == (None, None, 1.0, ["a", "b"])


def test_resume_drops_lines_past_the_checkpoint_and_a_cut_line(tmp_path):
    tracked(tmp_path, [1, 2, 3, 4])
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"update": 5, "lo')  # killed while writing
    tracked(tmp_path, [3, 4, 5], resumed_at=2)
    assert [row["update"] for row in lines(tmp_path)] == [1, 2, 3, 4, 5]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_new_run_keeps_older_lines_apart(tmp_path):
    tracked(tmp_path, [1, 2])
    tracked(tmp_path, [1])
    assert [row["update"] for row in lines(tmp_path)] == [1]
    assert [row["update"] for row in lines(tmp_path, "metrics.jsonl.previous")] == [1, 2]


def test_what_was_measured_before_training_stays_where_a_run_begins_again(tmp_path):
    tracked(tmp_path, [0, 1, 2])
    tracked(tmp_path, [1])
    assert [row["update"] for row in lines(tmp_path)] == [0, 1]
    assert [row["update"] for row in lines(tmp_path, "metrics.jsonl.previous")] == [0, 1, 2]


def test_summary(tmp_path):
    tracked(tmp_path, [1]).finish({"refcoco/cIoU": 0.5, "x": float("nan")})
    assert json.loads((tmp_path / "metrics_summary.json").read_text()) == {"refcoco/cIoU": 0.5, "x": None, "non_finite": ["x"]}


@pytest.mark.parametrize("file", ["", "a/b.jsonl", "../x"])
def test_file_stays_in_the_run_folder(file):
    with pytest.raises(ValueError, match="file must"):
        Jsonl(file=file)
