"""The short form of ``benchmarks/data.py``: what leaves a worker, what it costs, and which pixels are equal."""

from __future__ import annotations

from pathlib import Path

from benchmarks import data as benchmark
from plugins.datasets.sa1b import Sa1b


def test_a_worker_sends_less_for_less_work(tmp_path: Path) -> None:
    benchmark.write_pictures(tmp_path / "pictures", 2, 480, 640)
    found = benchmark.measure(tmp_path / "pictures", 2, turns=2, rounds=1)
    for way in ("ours", "fast", "draft", "both"):
        assert found["plain"]["MB/sample"] > 4 * found[way]["MB/sample"]
        assert found["plain"]["ms/sample"] > 2 * found[way]["ms/sample"]  # 4 and more where nothing else runs
    assert benchmark.equal_pixels(Sa1b(root=tmp_path / "pictures")[0])


def test_memory_does_not_grow(tmp_path: Path) -> None:
    benchmark.write_pictures(tmp_path / "small", 20, 96, 128)
    first, last = benchmark.growth(Sa1b(root=tmp_path / "small"), 1000)
    assert last - first < 2**20
