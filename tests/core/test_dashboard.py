from __future__ import annotations

import json
import sys

import pytest
from test_compare import write_run

from core.commands import dashboard
from core.engine.sweep_point import keep_axes

WANDB = {"wandb": {"use": "wandb", "project": "dual"}}


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def runs(tmp_path):
    for op in ("sum", "pcgrad_orthogonal"):
        write_run(tmp_path / "runs" / op, gradient={"use": op}, track=WANDB)
    return tmp_path / "runs"


@pytest.fixture
def dry(runs, tmp_path):
    assert dashboard.main([str(runs), "--dry-run", "--json", str(tmp_path / "d.json")]) == 0
    return json.loads((tmp_path / "d.json").read_text())


def test_a_dry_run_says_in_words_what_it_would_make(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert dashboard.main([str(runs), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 15
    assert "W&B project ENTITY/dual; runs: those of the group tiny, as these 2 are" in text
    assert "workspace: dualloop: tiny" in text
    assert "  Loop against loop: 3 panels (all loops, loop1/loss, loop2/loss)" in text
    assert "  Pictures: 2 panels (pictures/after, pictures/after/panels)" in text
    assert "as JSON: dashboard.json" in text
    assert set(json.loads((tmp_path / "dashboard.json").read_text())) == {"workspace", "report"}
    assert dashboard.main([str(runs), "--dry-run", "--json", str(tmp_path / "no" / "x.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_sweep_s_runs_are_a_group_of_their_own(runs, tmp_path):
    keep_axes(runs, ["gradient.use"])
    assert dashboard.main([str(runs), "--dry-run", "--json", str(tmp_path / "d.json")]) == 0
    found = json.loads((tmp_path / "d.json").read_text())["workspace"]["spec"]["section"]["runSets"][0]
    assert [(f["key"]["name"], f["value"]) for f in found["filters"]["filters"]] == [("group", ["runs"])]


def test_the_workspace(dry):
    assert (dry["workspace"]["project"], dry["workspace"]["displayName"]) == ("dual", "dualloop: tiny")
    section = dry["workspace"]["spec"]["section"]
    panels = {s["name"]: s["panels"] for s in section["panelBankConfig"]["sections"]}
    assert list(panels) == ["Loop against loop", "Losses by component", "Surgery", "Evaluation", "Speed and memory", "Pictures"]
    first = panels["Loop against loop"][0]["config"]
    assert (first["xAxis"], first["metrics"]) == ("update", ["loop1/loss", "loop2/loss"])
    assert [p["config"]["metrics"] for p in panels["Losses by component"]] == [["loop1/pseudo/mask"]]
    assert [p["config"]["metrics"][0] for p in panels["Surgery"]] == ["surgery/cosine/loop1_loop2", "surgery/norm/loop1"]
    assert [p["config"]["mediaKeys"] for p in panels["Pictures"]] == [["pictures/after"], ["pictures/after/panels"]]
    runset = section["runSets"][0]
    assert runset["grouping"] == [{"section": "config", "name": "gradient.value.use"}]
    assert [(f["key"]["name"], f["value"]) for f in runset["filters"]["filters"]] == [("group", ["tiny"])]


def test_the_report(dry):
    blocks = dry["report"]["spec"]["blocks"]
    titles = [block["children"][0]["text"] for block in blocks if block["type"] == "heading"]
    assert titles == ["Losses", "Losses by component", "Surgery on and off", "Ablations", "Pictures"]
    grids = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    surgery = {runset["name"]: runset["filters"]["filters"][1] for runset in grids[2]["runSets"]}
    assert {name: (f["key"]["name"], f["op"], f["value"]) for name, f in surgery.items()} == {
        "with surgery": ("tags", "NIN", ["gradient:sum"]),
        "without": ("tags", "IN", ["gradient:sum"]),
    }
    bars = [panel["config"] for panel in grids[3]["panelBankSectionConfig"]["panels"]]
    assert [bar["chartTitle"] for bar in bars] == [f"{name} by gradient.use" for name in ("loop1/loss", "loop2/loss", "referring/cIoU")]
    assert bars[0]["groupBy"] == "gradient.value.use"
    assert bars[0]["metrics"] == ["summary_metrics.loop1/loss.last"]  # the tracker keeps the least and the last of a loss
    for grid in grids:  # no panel lies on another
        places = [(panel["layout"]["x"], panel["layout"]["y"]) for panel in grid["panelBankSectionConfig"]["panels"]]
        assert len(set(places)) == len(places)


def test_a_crashed_run_without_metrics_has_a_dashboard(tmp_path):
    write_run(tmp_path / "a", updates=0, finished=False, track=WANDB)
    assert dashboard.main([str(tmp_path / "a"), "--dry-run", "--only", "report", "--json", str(tmp_path / "d.json")]) == 0
    assert list(json.loads((tmp_path / "d.json").read_text())) == ["report"]


def test_what_the_user_can_put_right(runs, tmp_path, capsys, monkeypatch):
    def said(*arguments):
        assert dashboard.main([*map(str, arguments)]) == 2
        return capsys.readouterr().err

    assert "Name the W&B user or team with --entity" in said(runs)
    write_run(tmp_path / "plain", track={})
    assert "no wandb tracker: name one with --project" in said(tmp_path / "plain", "--dry-run")
    write_run(tmp_path / "other", track={"w": {"use": "wandb", "project": "else"}})
    assert "projects are dual, else" in said(runs, tmp_path / "other", "--dry-run")
    assert dashboard.main([str(tmp_path / "plain"), "--dry-run", "--project", "x", "--json", str(tmp_path / "d.json")]) == 0
    capsys.readouterr()
    for only in ("workspace", "report"):
        assert "Log in with `wandb login`" in said(runs, "--entity", "someone", "--only", only)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    assert "pip install 'dualloop[dashboard]'" in said(runs, "--dry-run")
