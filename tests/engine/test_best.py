"""Which evaluation is the best, and where its checkpoint is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from core.contracts import UserError
from core.engine import checkpoint
from core.engine.best import Watch, named_best


def watch(*values: float, **given: object) -> tuple[Watch, list[bool]]:
    made = Watch("e/m", **given)
    return made, [made.add(update, {"e": {"m": value}}) for update, value in enumerate(values, start=1)]


def test_which_value_is_the_best() -> None:
    nan, inf = float("nan"), float("inf")
    assert watch(nan, 1.0, 1.0, inf, 2.0)[1] == [False, True, False, False, True]
    assert watch(1.0, 2.0, 0.5, -inf, highest=False)[1] == [True, False, True, False]
    ended, _ = watch(nan, nan, patience=2)
    assert ended.ended() == "after update 2: e/m has not been a number for 2 evaluations"
    assert watch(1.0, 0.5, 2.0, patience=2)[0].ended() is None
    assert watch(1.0, 0.5)[0].line() == "update 2: e/m 0.5 (best 1 at update 1)"
    plain = Watch()
    assert not plain.add(3, {"a": {"x": 0.25, "y": 1.0}, "b": {"z": nan}})
    assert plain.line() == "update 3: a/x 0.25  b/z NaN"


def test_the_best_checkpoint_has_a_name_and_outlives_the_newest(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for update in range(1, 6):
        (folder / f"update-{update:06d}").mkdir(parents=True)
    with pytest.raises(UserError, match=r"best: the run has kept no best checkpoint; train with train\.evaluate_every and"):
        named_best(folder / "best")
    watched, _ = watch(0.5, 0.75, 0.25)
    watched.write(folder)
    checkpoint.prune(folder, 2)
    assert sorted(path.name for path in folder.iterdir()) == ["best.json", "update-000002", "update-000004", "update-000005"]
    assert named_best(folder / "best") == folder / "update-000002"
    assert named_best(tmp_path / "best") == tmp_path / "best"
    shutil.rmtree(folder / "update-000002")
    watched.write(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["update-000004", "update-000005"]
    (folder / "best.json").write_text("{}")
    with pytest.raises(UserError, match=r"best.json: cannot be read .* remove it"):
        checkpoint.prune(folder, 2)
