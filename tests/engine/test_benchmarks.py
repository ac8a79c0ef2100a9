"""The short form of ``benchmarks/dual_update.py``: it runs, and the toolkit's update is the straightforward one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def test_our_update_is_the_straightforward_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # it is run as a script
    import dual_update

    given = argparse.Namespace(**dual_update.SMALL)
    plain, ours = (dual_update.measure(way, given) for way in ("plain", "ours"))
    assert ours["losses"] == pytest.approx(plain["losses"], rel=1e-6)
    for mine, other in zip(ours["gradients"], plain["gradients"], strict=True):
        assert np.abs(mine - other).max() < 1e-5 * np.abs(other).max()
    assert {"teacher", "sampler", "loop 2", "surgery", "optimizer", "EMA"} <= ours["phases"].keys()
    assert ours["products"]["loop 2"] > 0
    sys.modules.pop("dual_update")
