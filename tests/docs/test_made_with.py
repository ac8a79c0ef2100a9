"""A measured table says of which recipes and which small base it is, and fails here once these are others: measure it anew."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml

from core.commands import experiment

ROOT = Path(__file__).parents[2]
BASE = "assets/sa2va-shapes/model.safetensors"
STAMP = re.compile(r"<!-- made with (.+?) -->")
PAGES = ["README.md", "README.zh-CN.md", "docs/method.md", "docs/results.md"]


def digest(path: str) -> str:
    """Of a recipe what it says, so that its comments are free to change; of another file its bytes."""
    file = ROOT / path
    if file.suffix == ".yaml":
        said = json.dumps(yaml.safe_load(file.read_text(encoding="utf-8")), sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:12]
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def stamps(page: str) -> list[str]:
    return STAMP.findall((ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_of_these_recipes_and_this_base(page: str) -> None:
    for stamp in stamps(page):
        for part in stamp.split(", "):
            path, said = part.split()
            assert said == digest(path), f"{page}: a table was made with another {path}; measure it anew, then write {path} {digest(path)}"


def test_the_tables_have_stamps() -> None:
    assert len(stamps("docs/results.md")) >= 2
    assert all(any(BASE in stamp for stamp in stamps(page)) for page in PAGES)


def test_reports_in_evidence_are_of_the_present_experiments(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    names = sorted(set(re.findall(r"<!-- report of (\S+):", text)))
    assert "new-look" in names
    for name in names:
        file = f"recipes/experiments/{name.replace('-', '_')}.yaml"
        assert experiment.main([file, "--check-report", "docs/evidence.md"]) == 0, capsys.readouterr().err
