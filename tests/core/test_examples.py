"""The example packages, put on the path as an editable install would."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from test_scaffold import put_on_path

from core.doctor import examine
from core.registry import AmbiguousName, BrokenPlugin, Registry

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    for project in sorted(EXAMPLES.glob("*/pyproject.toml")):
        leftovers = shutil.ignore_patterns("*.egg-info", "__pycache__")
        package = shutil.copytree(project.parent, tmp_path / project.parent.name, ignore=leftovers)
        put_on_path(package, monkeypatch)
    return Registry()


def test_sound_examples_are_found_and_built(registry: Registry) -> None:
    assert registry.get("gradient_ops", "damped_conflict").create(anchor="loop1").damping == 0.5
    assert registry.get("samplers", "expected_embedding").entry.distribution == "expected-embedding"
    assert registry.get("evaluators", "mean_iou").entry.distribution == "mean-iou"
    assert [p.name for p in registry.get("datasets", "mask_folder").parameters] == ["root", "max_samples"]


def test_the_broken_one_hurts_only_itself(registry: Registry) -> None:
    with pytest.raises(BrokenPlugin, match="a_module_that_nobody_has"):
        registry.get("schedules", "broken_turns")


def test_clashing_names_need_their_distribution(registry: Registry) -> None:
    with pytest.raises(AmbiguousName, match="clash-left/shared_name or clash-right/shared_name"):
        registry.get("losses", "shared_name")
    assert registry.get("losses", "clash-right/shared_name").object.__module__ == "clash_right"


def test_the_doctor_finds_one_fault_and_one_clash(registry: Registry, tmp_path: Path) -> None:
    ours = [f for f in examine(registry, tmp_path) if "broken-turns" in str(f) or "clash-" in str(f)]
    assert sorted(finding.what for finding in ours) == ["broken", "clash"]
