"""The doctor on distributions made up on the path: one for each fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from core.commands import components
from core.commands.components import main
from core.registry import Registry
from core.registry.doctor import Finding, examine

SOUND = "class Thing:\n    def loops(self, update):\n        return ['loop1']\n"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    def make(distribution: str, entry_points: str, code: str) -> None:
        folder = tmp_path / distribution
        info = folder / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(entry_points)
        (folder / f"{distribution.replace('-', '_')}.py").write_text(code)
        monkeypatch.syspath_prepend(str(folder))

    return make


def about(distribution: str, folder: Path) -> list[Finding]:
    return [finding for finding in examine(Registry(), folder) if distribution in str(finding)]


@pytest.mark.parametrize(
    ("code", "what", "cause", "remedy"),
    [
        ("import no_such_module.part\n", "broken", "No module named 'no_such_module'", "pip install no_such_module"),
        ("from json import nothing\n", "broken", "cannot import name 'nothing'", "pip install -U sick"),
        ("class Thang: ...\n", "broken", "did you mean 'Thang'?", "correct its pyproject.toml"),
        ("1 / 0\n", "broken", "ZeroDivisionError: division by zero", "pip uninstall sick"),
        ("class Thing: ...\n", "breaks its contract", "it lacks loops", "Schedule in core.contracts"),
        (SOUND + "    def __init__(self, *, k): ...\n", "breaks its contract", "parameter 'k' has no type", "tell its author"),
    ],
)
def test_broken_plugins_tell_distribution_version_cause_and_remedy(install, tmp_path, code, what, cause, remedy) -> None:
    name = f"sick-{abs(hash(code))}"
    install(name, f"[dualloop.schedules]\nill = {name.replace('-', '_')}:Thing\n", code)
    [finding] = about(name, tmp_path)
    assert (finding.what, finding.broken) == (what, True)
    assert f"of {name} 1.2" in finding.where
    assert cause in finding.cause
    assert remedy.removesuffix("sick") in finding.remedy


def test_clashes_name_both_and_break_nothing(install, tmp_path) -> None:
    for name in ("twin-a", "twin-b"):
        install(name, f"[dualloop.schedules]\nclash = {name.replace('-', '_')}:Thing\n", SOUND)
    [finding] = about("twin-a", tmp_path)
    assert (finding.what, finding.broken) == ("clash", False)
    assert finding.remedy == "write use: twin-a/clash or use: twin-b/clash"


def test_stale_installs_and_strays(install, tmp_path) -> None:
    install("old-one", "[dualloop.schedules]\nkept = old_one:Thing\n[dualloop.schedule]\nlost = old_one:Thing\n", SOUND)
    project = tmp_path / "old-one"
    (project / "pyproject.toml").write_text(
        '[project]\nname = "old-one"\n[project.entry-points."dualloop.schedules"]\nkept = "old_one:Thing"\nfresh = "old_one:Fresh"\n'
    )
    found = {(finding.what, finding.cause.split(": ")[-1]) for finding in about("old-one", project)}
    assert ("stale install", "schedules/fresh") in found
    assert any(what == "stray" for what, _ in found)


def test_exit_code_says_whether_something_is_broken(monkeypatch, capsys) -> None:
    for broken, code in ((True, 1), (False, 0)):
        monkeypatch.setattr(components, "examine", lambda registry, broken=broken: [Finding("x", "y", "z", "do", broken)])
        assert main(["doctor"]) == code
    assert "  remedy  do" in capsys.readouterr().out


def test_the_built_in_components_are_sound() -> None:
    assert [finding for finding in examine(Registry(), Path("/")) if "of dualloop " in finding.where] == []
