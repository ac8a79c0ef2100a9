"""Installed from the wheel, started in a project that has packages named ``core`` and ``plugins`` of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("core", "plugins", "recipes", "assets", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
PIP = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "--no-input"]
SMALL = [
    "train={updates: 2, batch_size: 1, evaluate: none}",
    "checkpoint={every: 2, export: false}",
    "track={wandb: null, tensorboard: null}",
    "evaluate={referring: null, caption: null}",
    "gradient={use: 'own_ops:Half'}",
    "schedule={use: ./own_schedule.py:Both}",
]
#: The contract's small model: the ranks load no library of models.
LIGHT = ["model={use: 'core.testing.tiny_model:TinyModel'}", "loops.loop1.tasks.pseudo.sampler.k=4"]
OWN_OPS = """
import own_helper
from plugins.gradient_ops.weighted_sum import WeightedSum

class Half(WeightedSum):
    def weights(self, gram):
        return own_helper.SHARE * super().weights(gram)
"""
OWN_SCHEDULE = """
from collections.abc import Sequence

class Both:
    def loops(self, update: int) -> Sequence[str]:
        return ["loop1", "loop2"]
"""


def said(command: list[str | Path], folder: Path, code: int = 0) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MYPYPATH")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def dualloop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script of an environment with the wheel; what it depends on is shared with this one."""
    source, home = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("environment")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, source / name)
    said([*PIP, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "-w", home, source], home)
    venv.create(home / "venv", with_pip=False)
    [wheel] = home.glob("*.whl")
    said([*PIP, "--python", home / "venv/bin/python", "install", "--no-index", "--no-deps", wheel], home)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home / "venv")}))
    (site / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")  # the .pth files there, of editable installs, are not read
    return home / "venv/bin/dualloop"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder of somebody's own: importing its packages in place of the toolkit's would fail."""
    for name in ("core", "plugins"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('this is the project, not dualloop')\n")
    (tmp_path / "own_ops.py").write_text(OWN_OPS)
    (tmp_path / "own_helper.py").write_text("SHARE = 0.5\n")
    (tmp_path / "own_schedule.py").write_text(OWN_SCHEDULE)
    return tmp_path


def test_the_toolkit_is_used_from_a_folder_with_its_own_core_and_plugins(dualloop: Path, project: Path) -> None:
    assert said([dualloop, "--version"], project).startswith("dualloop 0.")
    assert re.search(r"dual_loop_tiny +The whole dual-loop job", said([dualloop, "recipes"], project))
    assert "did you mean 'dual_loop_tiny'?" in said([dualloop, "run", "dual_loop_tny", "--check"], project, code=2)
    said([dualloop, "recipes", "copy", "dual_loop_tiny", "mine.yaml"], project)
    assert "mine.yaml exists already" in said([dualloop, "recipes", "copy", "dual_loop_tiny", "mine.yaml"], project, code=2)
    assert "data/shapes: " in said([dualloop, "world", "data/shapes", "--pictures", "20", "--size", "64"], project)
    assert (project / "mine.yaml").read_bytes() == (ROOT / "recipes/dual_loop_tiny.yaml").read_bytes()

    assert "recipe OK" in said([dualloop, "run", "mine.yaml", "--check"], project)
    spread = ["launch.strategy=ddp", "launch.processes=2", *LIGHT]
    end = said([dualloop, "run", "mine.yaml", "--quiet", "--sweep", "seed=1", *SMALL, *spread], project)
    assert "sweep: 1 of 1 runs ended well" in end
    assert "look at them: dualloop compare runs/" in end
    [run] = (file.parent for file in project.glob("runs/*/*/recipe.json"))  # beside it lies sweep.json
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {row["surgery/weight/loop1"] for row in rows if "surgery/weight/loop1" in row} == {0.5}  # the project's own op
    assert "tiny_model:TinyModel" in (run / "recipe.yaml").read_text()


@pytest.mark.skipif("DUALLOOP_LONG" not in os.environ, reason="runs four more commands; set DUALLOOP_LONG=1")
def test_every_other_command_works_there_too(dualloop: Path, project: Path) -> None:
    said([dualloop, "world", "data/shapes", "--pictures", "20", "--size", "64"], project)
    assert "recipe OK" in said([dualloop, "run", "dual_loop_tiny", "--check"], project)
    assert "0 fail" in said([dualloop, "check", "dual_loop_tiny", "--samples", "2"], project)
    said([dualloop, "run", "dual_loop_tiny", "--quiet", *SMALL, "launch.strategy=ddp", "launch.processes=2"], project)
    [run] = project.glob("runs/dual-loop-tiny-*")
    elsewhere = shutil.move(run, project / "moved")
    settings = ["--use", "refcoco", "--data", "refcoco", "root=data/shapes/ref_seg", "split=val", "max_samples=2", "max_new_tokens=4"]
    said([dualloop, "evaluate", elsewhere, "--quiet", "--processes", "2", "--out", "card", *settings], project)
    assert "wrote full of" in said([dualloop, "convert", elsewhere, "published"], project)
    said([dualloop, "compare", elsewhere, "--md"], project)
    assert "models/sa2va" in said([dualloop, "components", "explain", "models/sa2va"], project)
