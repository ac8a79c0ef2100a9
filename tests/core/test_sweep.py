from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path

import pytest

from core.commands import run, sweep
from core.commands.sweep import grid, points, split_values
from core.contracts import UserError
from core.engine.sweep_point import point_of
from core.installed.children import wait_for
from core.recipe import check, load
from core.registry import Registry

RECIPE = "recipes/dual_loop_tiny.yaml"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2, 3", ["1", "2", "3"]),
        ("[a, b],[b, a]", ["[a, b]", "[b, a]"]),
        ("{use: sum},{use: pcgrad, x: [1,2]}", ["{use: sum}", "{use: pcgrad, x: [1,2]}"]),
        ("'a,b',c", ["'a,b'", "c"]),
    ],
)
def test_values_are_cut_at_outer_commas(text, values):
    assert split_values(text) == values


def test_the_last_axis_varies_fastest():
    assert grid(["seed=1,2", "a.b=x,y"]) == [["seed=1", "a.b=x"], ["seed=1", "a.b=y"], ["seed=2", "a.b=x"], ["seed=2", "a.b=y"]]


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        (["seed"], "no axis"),
        (["seed=1,,2"], "no axis"),
        (["seed=1", "seed=2"], "twice"),
        (["seed=1,1"], "twice"),
        (["seed=" + ",".join(map(str, range(1001)))], "more than 1000"),
    ],
)
def test_wrong_axes(axes, said):
    with pytest.raises(UserError, match=said):
        grid(axes)


def test_an_exchanged_component_keeps_the_keys_it_takes():
    axes = ["gradient.use=sum,pcgrad_orthogonal,pcgrad", "optimizer.lr=0.1"]
    found, notes = points(RECIPE, ["train.updates=3"], axes, Registry())
    recipes = [load(RECIPE, overrides) for overrides in found]
    assert [check(recipe, Registry()) for recipe in recipes] == [[], [], []]
    gradients = [recipe.values["gradient"] for recipe in recipes]
    assert gradients == [{"use": "sum"}, {"use": "pcgrad_orthogonal", "anchor": "loop1"}, {"use": "pcgrad"}]
    assert all(recipe.values["optimizer"]["lr"] == 0.1 for recipe in recipes)
    assert [note.split(": ", 1)[1] for note in notes] == [f"gradient.anchor is left out: {op} does not take it" for op in ("sum", "pcgrad")]


def test_another_axis_of_an_exchanged_component_must_fit_it():
    with pytest.raises(UserError, match=r"command line: gradient\.anchor: unknown key 'anchor'"):
        points(RECIPE, [], ["gradient.anchor=loop1,loop2", "gradient.use=pcgrad_orthogonal,sum"], Registry())


def test_all_faults_of_all_runs_at_once(capsys):
    assert run.main([RECIPE, "--sweep", "seed=1,x", "gradient.use=summ,sum"]) == 2
    text = capsys.readouterr().err
    assert "2 faults in the sweep" in text
    assert "expected an integer, got 'x'" in text
    assert "no component 'summ'" in text


def test_the_commands_for_a_scheduler(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sweep, "wait_for", lambda arguments: pytest.fail("nothing is to be started"))
    output = f"output={tmp_path / 'runs'}"
    assert run.main([RECIPE, "train.updates=3", output, "--sweep", "seed=1,2", "gradient.use=sum", "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert shown.err.count("gradient.anchor is left out") == 1
    lines = [shlex.split(line) for line in shown.out.splitlines()]
    assert [line[:4] for line in lines] == [["python", "-m", "core.run", RECIPE]] * 2
    assert [line[4:8] for line in lines] == [["train.updates=3", output, f"seed={seed}", "gradient.use=sum"] for seed in (1, 2)]
    assert lines[0][8] == lines[1][8]
    folder = lines[0][8].removeprefix("output=")
    assert folder.startswith(f"{tmp_path}/runs/dual-loop-tiny-sweep-")
    assert point_of(Path(folder) / "any", {"seed": 2, "gradient": {"use": "sum"}}) == "seed=2, gradient=sum"


def test_runs_go_one_after_another_and_a_failure_stops_none(capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(sweep, "wait_for", lambda arguments: (seen.append(arguments), (7 if "seed=2" in arguments else 0, False))[1])
    assert run.main([RECIPE, "--quiet", "--sweep", "seed=1,2,3"]) == 7
    assert [arguments[0] for arguments in seen] == [sys.executable] * 3
    assert all(arguments[-1] == "--quiet" for arguments in seen)
    text = capsys.readouterr().out
    assert "2 of 3 runs ended well" in text
    assert "failed: seed=2 (exit code 7)" in text
    assert "core.compare runs/dual-loop-tiny-sweep-" in text


def test_a_stopped_sweep_starts_no_further_run(monkeypatch):
    seen = []
    monkeypatch.setattr(sweep, "wait_for", lambda arguments: (seen.append(arguments), (143, True))[1])
    assert run.main([RECIPE, "--sweep", "seed=1,2,3"]) == 143
    assert len(seen) == 1


def test_the_exit_code_and_a_signal_reach_both_sides(tmp_path):
    assert wait_for([sys.executable, "-c", "raise SystemExit(5)"]) == (5, False)
    # the child asks for its parent's end, is told to end itself, and ends in its own way
    child = "import os, signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
    child += "os.kill(os.getppid(), signal.SIGTERM)\ntime.sleep(600)"
    before = signal.getsignal(signal.SIGTERM)
    assert wait_for([sys.executable, "-c", child]) == (3, True)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("arguments", [["--resume"], ["--resolved"]])
def test_what_goes_with_no_sweep(arguments):
    with pytest.raises(SystemExit):
        run.main([RECIPE, *arguments, "--sweep", "seed=1,2"])
    with pytest.raises(SystemExit):
        run.main([RECIPE, "--dry-run"])
