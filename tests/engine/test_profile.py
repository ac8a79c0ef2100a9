"""The table of an update's phases: what it adds up to, that it changes nothing, and what is written of it."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from core.commands.run import main
from core.contracts import UserError
from core.engine import building
from core.engine.phases import Phases, Waits
from core.engine.profile import Profile
from core.recipe import Recipe, resolved_yaml
from core.registry import Registry
from tests.engine.whole_runs import at, equal, go

Make = Callable[..., Recipe]


def test_time_belongs_to_the_innermost_phase() -> None:
    phases = Phases("cpu")
    with phases.phase("outer"):
        time.sleep(0.02)
        with phases.phase("inner"):
            time.sleep(0.05)
        time.sleep(0.02)
    phases.settle()
    assert list(phases.spent) == ["outer", "inner"]
    assert phases.spent["inner"].seconds >= 0.05
    assert phases.spent["outer"].seconds >= 0.04
    assert phases.spent["inner"].peak_bytes > 0


@pytest.mark.parametrize(
    ("call", "waits"),
    [
        (lambda x: x.sum(), 0),
        (lambda x: x[1:], 0),
        (lambda x: x[torch.tensor([0, 2])], 0),
        (lambda x: x[x > 0], 1),
        (lambda x: float(x.sum()), 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: x.masked_select(x > 0), 1),
        (lambda x: bool((x > 0).any()), 1),
        (lambda x: torch.unique(x), 1),
        (lambda x: torch.repeat_interleave(x, torch.tensor([1, 2, 1])), 1),
        (lambda x: torch.repeat_interleave(x, 2), 0),
        (lambda x: x.to(torch.float64), 0),
        (lambda x: x.clone().index_put_((x > 0,), torch.tensor(0.0)), 1),
    ],
)
def test_what_a_host_waits_for(call: Callable[[torch.Tensor], object], waits: int) -> None:
    phases = Phases("cpu")
    with Waits(phases), phases.phase("one"):
        call(torch.tensor([1.0, -2.0, 3.0]))
    assert phases.spent["one"].waits == waits


def test_waits_of_the_backward_pass_count_too() -> None:
    phases, x = Phases("cpu"), torch.randn(4, requires_grad=True)
    loss = x.masked_select(x > 0).sum()
    with Waits(phases), phases.phase("backward"):
        loss.backward()
        float(loss.detach())
    assert phases.spent["backward"].waits >= 1


def test_a_run_measures_itself_and_its_weights_are_the_same(tiny: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = ("checkpoint.every=4", "loops.loop1.tasks.referring=null")
    recipe = tiny(*changed)
    plain = at(go(tiny(*changed, f"output={tmp_path}/plain")), 4)["trained"]
    (tmp_path / "recipe.yaml").write_text(resolved_yaml(recipe, Registry()))
    capsys.readouterr()
    assert main([str(tmp_path / "recipe.yaml"), "--quiet", "--profile", "2"]) == 0
    [run] = Path(recipe.values["output"]).iterdir()
    assert equal(at(run, 4)["trained"], plain)
    text = (run / "profile" / "profile.txt").read_text()
    assert text in capsys.readouterr().out
    found = json.loads((run / "profile" / "profile.json").read_text())
    assert found["updates"] == [1, 2]
    assert found["warm_up_seconds"] > 0
    assert not found["traced_while_measured"]
    phases = found["phases"]
    parts = ("data", "encode", "segment", "backward", "rest")
    expected = {f"{loop} {part}" for loop in ("loop1", "loop2") for part in parts} | {"loop1 generate", "loop1 caption_states"}
    assert expected | {"surgery", "step", "teacher", "rest"} <= phases.keys()
    assert sum(phase["share"] for phase in phases.values()) == pytest.approx(1)
    assert sum(phase["seconds"] for phase in phases.values()) == pytest.approx(found["seconds"])
    assert all(phase["peak_gib"] > 0 for phase in phases.values())
    assert phases["loop1 generate"]["waits"] > 0
    assert phases["loop1 data"]["waits"] == 0
    logged = [json.loads(line)["time/update_s"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert found["seconds"] >= (logged[1] + logged[2]) / 2  # from outside
    names = {event.get("name") for event in json.loads(gzip.decompress((run / "profile" / "trace.json.gz").read_bytes()))["traceEvents"]}
    assert {"loop1 generate", "loop2 backward", "aten::mm"} <= names


@pytest.mark.parametrize(("left", "measured", "traced"), [(1, [0], 0), (2, [0, 1], 1), (3, [1, 2], 2), (4, [1, 2], 3), (9, [1, 2], 3)])
def test_shorter_runs_measure_what_they_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int, measured: list[int], traced: int
) -> None:
    made: list[str] = []

    class Fake:
        device = "cpu"

        def update(self, number: int) -> dict[str, float]:
            made.append(f"{number}")
            return {"time/update_s": 1.0}

    monkeypatch.setattr(Profile, "_measure", lambda self, number: made.append(f"{number} measured"))
    monkeypatch.setattr(Profile, "_trace", lambda self, number, too: made.append(f"{number} traced{' and measured' * too}"))
    profile = Profile(Fake(), 2, left, tmp_path)  # type: ignore[arg-type]
    assert list(profile.measured) == measured
    for number in range(left):
        profile.update(number)
    assert profile.done
    expected = [f"{number} measured" if number in measured else f"{number}" for number in range(left)]
    expected[traced] = f"{traced} traced" + " and measured" * (traced in measured)
    assert made == expected


def test_a_trainer_is_as_it_was_afterwards(tiny: Make, tmp_path: Path) -> None:
    trainer = building.build_run(tiny("train.updates=1"), Registry(), tmp_path, None).trainer
    before = [vars(one).copy() for one in (trainer, trainer.strategy, trainer.surgery, trainer.teacher, trainer.loops["loop1"].feed)]
    profile = Profile(trainer, 1, 1, tmp_path / "profile")
    profile.update(0)
    for one, then in zip((trainer, trainer.strategy, trainer.surgery, trainer.teacher, trainer.loops["loop1"].feed), before, strict=True):
        assert vars(one).keys() == then.keys()
    assert "generate" not in vars(trainer.model)
    assert "made under the profiler" in profile.write({"loop1 generate": {"peak_gib": 11.3, "waits": 768}})


@pytest.mark.parametrize(("updates", "left"), [(0, 3), (1, 0)])
def test_nothing_to_measure_is_refused(tmp_path: Path, updates: int, left: int) -> None:
    with pytest.raises(UserError, match=rf"--profile {updates}: it measures one update or more, and the run has {left} left"):
        Profile(None, updates, left, tmp_path)  # type: ignore[arg-type]
