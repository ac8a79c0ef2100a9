"""``components new --into`` a package that exists: what is added works, everything else stays as it was, or nothing is done."""

from __future__ import annotations

import errno
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from core.commands.components import main
from core.scaffold.existing import with_entry_point
from tests.engine.children import Command
from tests.patience import HANGS_S


@pytest.fixture
def package(tmp_path: Path) -> Path:
    assert main(["new", "loop", "my-tools", "--into", str(tmp_path), "--with", "own-weights"]) == 0
    return tmp_path / "my-tools"


def test_what_is_added_passes_its_kit_and_is_listed(
    package: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (package / "pyproject.toml").read_text().splitlines()
    assert main(["new", "gradient_op", "agreeing", "--into", str(package), "--with", "combine"]) == 0
    assert main(["new", "gradient_op", "damped", "--into", str(package)]) == 0
    assert main(["new", "dataset", "drawn", "--into", str(package), "--with", "draw"]) == 0
    assert "its dependencies lack numpy, Pillow" in capsys.readouterr().out
    after = (package / "pyproject.toml").read_text()
    assert tomllib.loads(after)["project"]["entry-points"] == {
        "dualloop.loops": {"my_tools": "my_tools:MyTools"},
        "dualloop.gradient_ops": {"agreeing": "my_tools.agreeing:Agreeing", "damped": "my_tools.damped:Damped"},
        "dualloop.datasets": {"drawn": "my_tools.drawn:Drawn"},
    }
    added = iter(after.splitlines())
    assert [line for line in before if line not in added] == [], "each old line is there, in its order"
    assert "## drawn\n\n```yaml\ndata: {mine: {use: drawn," in (package / "README.md").read_text()
    monkeypatch.chdir(package)
    run = Command("pytest", "-q", "-p", "no:cacheprovider", "-o", f"pythonpath={package}", package / "tests")
    said, errors = run.communicate(HANGS_S)
    assert run.returncode == 0, said + errors
    assert int(said.split(" passed")[0].split()[-1]) > 40


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        (lambda text: text, "my-tools", "has 'my_tools' in dualloop.loops already"),
        (lambda text: text, "region_description", "loops have a 'region_description' already, of dualloop"),
        (lambda text: text, "2nd", "cannot be a package's name"),
        (lambda text: text + "]", "mine", "pyproject.toml is not TOML"),
        (lambda text: "[tool.x]\n", "mine", "has no [project] table"),
        (lambda text: text.replace("[project]", '[project]\ndynamic = ["entry-points"]'), "mine", "leaves its entry points to the build"),
        (lambda text: '[project]\nname = "my-tools"\nentry-points = {"dualloop.losses" = {a = "b:c"}}\n', "mine", "in another form"),
        (lambda text: '[project]\nname = "my-tools"\n[project."entry-points"."dualloop.loops"]\na = "b:c"\n', "mine", "in another form"),
    ],
)
def test_what_cannot_be_added_changes_nothing(
    package: Path, capsys: pytest.CaptureFixture[str], change: Any, name: str, words: str
) -> None:
    project = package / "pyproject.toml"
    project.write_text(change(project.read_text()))
    before = everything(package)
    assert main(["new", "loop", name, "--into", str(package)]) == 2
    told = capsys.readouterr().err
    assert words in told, told
    assert told.count("\n") == 1
    assert everything(package) == before


def test_files_that_are_there_are_kept(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (package / "tests" / "test_mine.py").write_text("mine")
    before = everything(package)
    assert main(["new", "loop", "mine", "--into", str(package)]) == 2
    assert "tests/test_mine.py exists already" in capsys.readouterr().err
    assert everything(package) == before


def test_several_packages_of_no_such_name_are_refused(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = package / "pyproject.toml"
    project.write_text(project.read_text().replace('name = "my-tools"', 'name = "other"'))
    assert main(["new", "loop", "mine", "--into", str(package)]) == 0  # one package: it
    (package / "second").mkdir()
    (package / "second" / "__init__.py").touch()
    assert main(["new", "loop", "mine2", "--into", str(package)]) == 2
    assert "found: my_tools, second" in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["pyproject.toml", "README.md"])
def test_a_disk_that_is_full_leaves_the_package_as_it_was(
    package: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    before, write, full = everything(package), Path.write_bytes, [True]

    def failing(path: Path, data: bytes) -> int:
        if path.name == broken and full.pop():
            write(path, data[:10])
            full.append(False)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", failing)
    assert main(["new", "loop", "mine", "--into", str(package)]) == 2
    assert f"{broken} cannot be written: No space left on device; nothing was added" in capsys.readouterr().err
    assert everything(package) == before


def test_line_ends_comments_and_a_last_line_without_an_end_stay() -> None:
    text = '# mine\r\n[project]  # here\r\nname = "x"\r\n'
    text += '[project.entry-points."dualloop.losses"] # ours\r\na = "b:c" # one\r\n\r\n# two\r\n[tool.x]\r\ny = 1'
    edited = with_entry_point(text, Path("p.toml"), "dualloop.losses", "n", "m:N")
    assert edited == text.replace("# one\r\n", '# one\r\n"n" = "m:N"\r\n') + "\r\n"
    bare = with_entry_point('[project]\nname = "x"', Path("p.toml"), "dualloop.losses", "n", "m:N")
    assert bare == '[project]\nname = "x"\n\n[project.entry-points."dualloop.losses"]\n"n" = "m:N"\n'
