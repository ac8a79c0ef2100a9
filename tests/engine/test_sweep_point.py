"""A sweep's runs are told apart by what varies, from the folders alone."""

from __future__ import annotations

from core.engine.sweep_point import group_of, keep_axes, point_of

VALUES = {"seed": 2, "gradient": {"use": "sum"}, "loops": {"loop1": {"weight": 0.5}}, "schedule": {"order": ["loop1", "loop2"]}}


def test_a_run_of_a_sweep_is_called_by_what_varies(tmp_path):
    sweep = tmp_path / "tiny-sweep-20260103-100000"
    keep_axes(sweep, ["seed", "gradient.use", "loops.loop1.weight", "schedule.order", "gradient", "schedule.order.1"])
    run = sweep / "tiny-20260103-100001"
    said = 'seed=2, gradient=sum, loop1.weight=0.5, schedule.order=["loop1", "loop2"], gradient=sum, order.1=loop2'
    assert point_of(run, VALUES) == said
    assert group_of(run) == sweep.name
    assert point_of(run, {}).startswith("seed=null, gradient=null")


def test_a_run_by_itself_has_no_point(tmp_path):
    assert (point_of(tmp_path / "runs" / "a", VALUES), group_of(tmp_path / "runs" / "a")) == ("", "")
    (tmp_path / "sweep.json").write_text("{")
    assert (point_of(tmp_path / "a", VALUES), group_of(tmp_path / "a")) == ("", "")
