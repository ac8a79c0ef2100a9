"""What a resumed run reports covers the whole run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from core.engine import runner
from core.engine.feed import bad_samples, forget_bad_samples
from core.engine.history import logged_before, metrics_file
from core.engine.result import ends
from core.recipe import Recipe
from core.registry import Registry


def lines(file: Path, *rows: dict[str, object]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_rows_of_before_without_skipped_updates_and_what_is_missing(tmp_path: Path) -> None:
    assert metrics_file({"track": {"mine": {"use": "jsonl", "file": "m.jsonl"}}}) == "m.jsonl"
    lines(
        tmp_path / "metrics.jsonl",
        {"update": 1, "time": 1.0, "a/loss": 4.0, "optimizer/skipped": 0.0},
        {"update": 2, "time": 1.0, "a/loss": None, "non_finite": ["a/loss"], "optimizer/skipped": 1.0},  # skipped
        {"update": 4, "time": 1.0, "a/loss": 2.0, "optimizer/skipped": 1.0},
        {"update": 4, "evaluation/x": 0.5},  # made up for
        {"update": 5, "time": 1.0, "a/loss": 9.0, "optimizer/skipped": 1.0},  # past the checkpoint
    )
    rows, lost = logged_before(tmp_path, {"track": {}}, 4)
    assert [row["a/loss"] for row in rows] == [4.0, 2.0]
    assert rows[1]["evaluation/x"] == 0.5
    assert lost == 1  # update 3
    assert ends(rows)["a/loss"] == (4.0, 2.0)
    assert logged_before(tmp_path, {"track": {}}, 0) == ([], 0)


def test_bad_samples_of_the_whole_run_are_counted_each_once(tmp_path: Path) -> None:
    bad = {"source": "loop1/a", "reason": "blank", "sample": "x\u2028y", "detail": ""}
    lines(tmp_path / "bad_samples.jsonl", bad | {"update": 1}, bad | {"update": 2}, bad | {"update": 3})
    lines(tmp_path / "bad_samples.rank1.jsonl", bad | {"update": 3, "reason": "dark"})
    with (tmp_path / "bad_samples.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(bad | {"update": 4}, ensure_ascii=False)[:-5])  # cut short by a kill
    assert bad_samples(tmp_path) == {"loop1/a: blank": 3, "loop1/a: dark": 1}
    forget_bad_samples(tmp_path, 3)  # three updates are done: 0, 1 and 2
    assert bad_samples(tmp_path) == {"loop1/a: blank": 2}
    assert not (tmp_path / "bad_samples.rank1.jsonl").exists()


def test_the_result_of_a_resumed_and_of_a_longer_run_is_that_of_an_unbroken_one(
    tiny: Callable[..., Recipe], finished: Path, tmp_path: Path
) -> None:
    def losses(run: Path) -> dict[str, str]:
        return {name: value for name, value in json.loads((run / "result.json").read_text()).items() if name.endswith("/loss")}

    assert runner.run(tiny("train.updates=6", f"output={tmp_path / 'whole'}"), Registry(), quiet=True) == 0
    [whole] = (tmp_path / "whole").iterdir()
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints" / "update-000004")
    (run / "result.json").unlink()
    assert runner.run(tiny("train.updates=6"), Registry(), resume=run, quiet=True) == 0
    assert losses(run) == losses(whole) != {}
    assert [json.loads(line)["update"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
