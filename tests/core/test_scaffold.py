"""Packages that ``components new`` writes: their own tests pass, the linter has nothing to say, recipes can use them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from core.components import main
from core.contracts import KINDS
from core.recipe import Recipe
from core.registry import Registry
from core.scaffold import SINGULAR

ROOT = Path(__file__).parents[2]


def put_on_path(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``pip install -e .`` would leave, without a network: the metadata beside the module, and the folder on the path."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = package / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = [f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in names.items()) for group, names in project["entry-points"].items()]
    (info / "entry_points.txt").write_text("\n".join(points))
    monkeypatch.syspath_prepend(str(package))


def test_packages_of_all_kinds_pass_their_own_tests_and_the_linter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = []
    for kind, singular in SINGULAR.items():
        assert main(["new", singular, f"my-{singular.replace('_', '-')}-x", "--into", str(tmp_path)]) == 0
        packages.append(tmp_path / f"my-{singular.replace('_', '-')}-x")
        put_on_path(packages[-1], monkeypatch)
        name = packages[-1].name.replace("-", "_")
        entry = Registry().get(kind, name)
        assert entry.entry.distribution == packages[-1].name
        assert all(parameter.type for parameter in entry.parameters)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*packages, ROOT])), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-c", os.devnull]
    done = subprocess.run([*command, *(str(p / "tests") for p in packages)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split(" passed")[0].split()[-1]) > 5 * len(KINDS)
    lint = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", str(tmp_path)], capture_output=True, text=True)
    assert lint.returncode == 0, lint.stdout + lint.stderr


def test_a_recipe_runs_the_scaffolded_op(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Callable[..., Recipe]) -> None:
    assert main(["new", "gradient_op", "my-surgery", "--into", str(tmp_path)]) == 0
    put_on_path(tmp_path / "my-surgery", monkeypatch)
    from core.engine import runner

    recipe = tiny("gradient.use=my_surgery", "train.updates=1")
    assert runner.run(recipe, Registry(), quiet=True) == 0
    [folder] = Path(recipe.values["output"]).iterdir()
    weight = json.loads((folder / "metrics.jsonl").read_text())["surgery/weight/loop2"]
    assert weight in (0.25, 0.5)  # damped or not


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("gradient", "mine", "is no kind"),
        ("loss", "2nd", "cannot be a package's name"),
        ("loss", "class", "cannot be a package's name"),
        ("loss", "json", "would hide the module json"),
    ],
)
def test_bad_names_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, name: str, message: str) -> None:
    assert main(["new", kind, name, "--into", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "loss", "mine", "--into", str(tmp_path)]) == 0
    assert main(["new", "loss", "mine", "--into", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
