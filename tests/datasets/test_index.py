from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from core.contracts import BadSample
from plugins.datasets import _tar
from plugins.datasets._index import spread


def test_a_spread_sample_is_not_the_head() -> None:
    chosen = spread(1000, 10)
    assert [index // 100 for index in chosen] == list(range(10))
    assert chosen == spread(1000, 10)
    assert chosen != spread(1000, 10, seed=1)


def test_the_whole_index_where_it_is_small() -> None:
    assert [*spread(3, None)] == [*spread(3, 3)] == [*spread(3, 50)] == [0, 1, 2]
    with pytest.raises(ValueError, match="max_samples"):
        spread(3, 0)


def _tar_of(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            (path.parent / "one").write_bytes(content)
            tar.add(path.parent / "one", name)


def test_members_are_found_again_after_the_tar_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    _tar_of(path, {"./x.jpg": b"old"})
    assert _tar.read(path, "x.jpg", "s") == b"old"
    _tar_of(path, {"pad": b"y" * 5000, "x.jpg": b"newer" * 3000})
    assert _tar.read(path, "x.jpg", "s") == b"newer" * 3000


def test_faults_of_a_tar_are_bad_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with pytest.raises(BadSample, match="missing tar"):
        _tar.read(path, "x", "s")
    path.write_bytes(b"no tar at all" * 100)
    with pytest.raises(BadSample, match="damaged tar"):
        _tar.read(path, "x", "s")
    _tar_of(path, {"x.jpg": b"z" * 4000})
    with pytest.raises(BadSample, match="missing member"):
        _tar.read(path, "y.jpg", "s")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(BadSample, match="damaged tar"):
        _tar.read(path, "x.jpg", "s")
