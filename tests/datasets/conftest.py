"""A small world of shapes for all tests of the readers, and the folder of real samples."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plugins.datasets.shapes import write_world

WORLD = {"pictures": 40, "seed": 3, "size": 96}


@pytest.fixture(scope="session")
def settings() -> dict[str, int]:
    return WORLD


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shapes") / "world"
    write_world(out, **WORLD)
    return out


@pytest.fixture(scope="session")
def samples() -> Path:
    folder = Path(os.environ.get("DUALLOOP_SAMPLES", Path(__file__).parents[2] / ".." / "shared" / "samples"))
    if not folder.is_dir():
        pytest.skip(f"no sample files of the real data sets at {folder}; set DUALLOOP_SAMPLES")
    return folder
