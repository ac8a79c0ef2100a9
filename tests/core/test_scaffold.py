"""Packages that ``components new`` writes: their own tests pass, the linter has nothing to say, recipes can use them."""

from __future__ import annotations

import errno
import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packages import described_pictures, done, installed

from core.commands.components import main
from core.contracts import KINDS
from core.recipe import Recipe, resolved_yaml
from core.registry import Registry
from core.registry.kinds import SINGULAR
from core.scaffold import DOORS


def put_on_path(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``pip install -e .`` would leave, without a network: the metadata beside the module, and the folder on the path."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = package / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = [f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in names.items()) for group, names in project["entry-points"].items()]
    (info / "entry_points.txt").write_text("\n".join(points))
    monkeypatch.syspath_prepend(str(package))


STRICT = """\
[mypy]
strict = true
follow_imports = silent
ignore_missing_imports = true
[mypy-torch.*,deepspeed.*,omegaconf.*,rich.*,yaml.*,safetensors.*,av.*,plotly.*,wandb.*]
follow_imports = skip
follow_imports_for_stubs = true
"""


def test_packages_of_all_kinds_are_installed_listed_checked_and_run(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    """Two packages, straight after ``pip install -e``: one of a gradient op alone, one to which a component of each other kind was added.

    Then one run in which all of them take part.
    """
    folder, tools = tmp_path / "packages", tmp_path / "packages" / "my-dataset-x"
    for singular in ("dataset", *(one for one in SINGULAR.values() if one != "dataset")):
        into = folder if singular in ("dataset", "gradient_op") else tools
        assert main(["new", singular, f"my-{singular.replace('_', '-')}-x", "--into", str(into)]) == 0
    packages = [tools, folder / "my-gradient-op-x"]
    python = installed(tmp_path / "environment", packages)

    listed = json.loads(done([python, "-m", "core.components", "list", "--json"], tmp_path))
    ours = {(entry["kind"], entry["name"], entry["distribution"]) for entry in listed if entry["distribution"] != "dualloop"}
    alone = {"gradient_ops": "my-gradient-op-x"}
    assert ours == {(kind, f"my_{one}_x", alone.get(kind, "my-dataset-x")) for kind, one in SINGULAR.items()}

    plain = ["-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, "-c", os.devnull]
    passed = done([python, "-m", "pytest", *plain, *(package / "tests" for package in packages)], tmp_path)
    assert int(passed.split(" passed")[0].split()[-1]) > 5 * len(KINDS)
    doors = [(SINGULAR[kind], door) for kind, names in DOORS.items() for door in names]
    for singular, door in doors:  # their tests are run in test_scaffold_templates
        assert main(["new", singular, f"my-{door}-y", "--with", door, "--into", str(folder)]) == 0
        packages.append(folder / f"my-{door.replace('_', '-')}-y")
    sources = [part for package in packages for part in (package / package.name.replace("-", "_"), *package.glob("tests/*.py"))]
    done([python, "-m", "ruff", "check", "--no-cache", tmp_path / "packages"], tmp_path)
    done([python, "-m", "ruff", "format", "--check", "--no-cache", tmp_path / "packages"], tmp_path)
    (tmp_path / "mypy.ini").write_text(STRICT)
    done([python, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", os.devnull, *sources], tmp_path)

    pictures = described_pictures(tmp_path / "pictures")
    (tmp_path / "recipe.yaml").write_text(resolved_yaml(tiny("train.updates=2", "checkpoint.every=2")))
    data = f"{{use: my_dataset_x, root: {pictures}}}"
    command = [python, "-m", "core.run", "recipe.yaml", "--quiet", "train.evaluate=before_and_after"]
    command += [f"{key}.use=my_{key}_x" for key in ("model", "teacher", "schedule", "optimizer")]
    command += ["gradient.use=my_gradient_op_x", "loops.loop1.tasks.pseudo.sampler.use=my_sampler_x"]
    command += ["loops.loop1.tasks.pseudo.losses.mask.use=my_loss_x", "track.mine={use: my_tracker_x}"]
    command += [f"loops.loop2.tasks.cycle={{use: my_loop_x, losses: {{caption: {{use: caption_ce}}}}, data: {{mine: {data}}}}}"]
    command += [f"evaluate.mine={{use: my_evaluator_x, data: {data}}}"]
    said = done(command, tmp_path)
    assert "model.checkpoint is left out: my_model_x does not take it" in said
    [folder] = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "result.json").read_text())["after"]["mine"]["n_regions"] == 4
    assert "2,loop2/cycle/caption," in (folder / "my_tracker_x.csv").read_text()


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
        ("loss", "transformers", "would hide the installed module transformers"),
        ("gradient_op", "sum", "gradient_ops have a 'sum' already, of dualloop"),
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
    (tmp_path / "file").touch()
    assert main(["new", "loss", "mine", "--into", str(tmp_path / "file")]) == 2
    assert "cannot be written: Not a directory; choose another --into" in capsys.readouterr().err


def test_nothing_is_left_of_a_package_that_could_not_be_written_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text = Path.write_text

    def full(path: Path, text: str, **options: Any) -> int:
        if path.name == "py.typed":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_text(path, text, **options)

    monkeypatch.setattr(Path, "write_text", full)
    assert main(["new", "loss", "mine", "--into", str(tmp_path)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
