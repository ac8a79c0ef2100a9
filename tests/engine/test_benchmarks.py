"""The short form of ``benchmarks/dual_update.py``: it runs, and the toolkit's update is the straightforward one."""

from __future__ import annotations

import argparse
import json
import os
import re
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


def test_the_table_of_the_full_size_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import full_size

    row = {"peak": 1.25, "phases": {"loop1 generate": {"peak_gib": 11.3, "waits": 768}}}
    monkeypatch.setattr(full_size, "counted", lambda args: row)
    small = ("--tiny", "--batch", "1", "--tokens", "4", "--rank", "2", "--k", "8", "--updates", "1", "--generation")
    full_size.main(["1B", *small, "--device", "cpu", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert re.search(r"^loop1 generate +[\d.]+ +[\d.]+% +[\d.]+ +\d+ +11\.30 +768$", printed, re.MULTILINE), printed
    assert "counted without a GPU: peak 1.2 GiB" in printed
    assert re.search(r"^a token of 1 captions: -?[\d.]+ ms$", printed, re.MULTILINE)
    assert json.loads((tmp_path / "out" / "profile.json").read_text())["phases"]["loop2 backward"]["seconds"] > 0
    with pytest.raises(SystemExit):
        full_size.main(["4B", "--device", "cpu"])


def test_what_was_counted_stands_beside_the_same_settings_alone() -> None:
    from benchmarks import full_size

    usual = argparse.Namespace(size="4B", tiny=False, batch=16, tiles=13, tokens=256, rank=128, keep_activations=False)
    assert "loop1 generate" in full_size.counted(usual)["phases"]
    few = argparse.Namespace(**vars(usual) | {"batch": 32, "tiles": 7})
    assert full_size.counted(few)["overrides"] == ["train.accumulate=1", "model.max_tiles=6", "train.batch_size=32"]
    for other in ({"tokens": 4}, {"tiny": True}, {"batch": 5}, {"keep_activations": True}):
        assert full_size.counted(argparse.Namespace(**vars(usual) | other)) == {}


@pytest.mark.skipif("DUALLOOP_LONG" not in os.environ, reason="takes half a minute; set DUALLOOP_LONG=1")
def test_the_model_of_many_gpus_counts_the_published_sizes() -> None:
    from benchmarks import scaling

    one = scaling.count("1B", 64)
    assert round(one.trained / 1e6, 1) == 80.1
    assert one.tensors == 477
    assert 1.9 < one.both / one.forward < 3.1  # frozen weights have no gradients of their own
