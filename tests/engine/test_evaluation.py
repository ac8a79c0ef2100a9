from __future__ import annotations

import io
import json
import math
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from core.contracts import BadSample, Evaluation
from core.engine.before_after import all_draws, before_after_table, seen
from core.engine.evaluation import Unfinished, evaluate_all, metric_values, write_result
from core.engine.launch import stopping
from core.engine.parallel.exchange import Alone
from core.engine.progress import Progress
from core.engine.result import DRAWS_BEFORE, before_training
from core.testing import TinyModel

BEFORE = {"refcoco": Evaluation({"cIoU": 0.5, "n_expressions": 40.0})}
AFTER = {
    "refcoco": Evaluation({"cIoU": 0.625, "n_expressions": 40.0, "gIoU": float("nan")}),
    "region_caption": Evaluation({"caption_ce": 1.5}),
}


class Looking:
    """An evaluator that notes in what state it found the model; its second unit is bad."""

    def __len__(self):
        return 2

    def measure(self, model, unit):
        if unit:
            raise BadSample("no picture", "x7", "gone")
        return [{"id": "x", "training": model.training, "grad": torch.is_grad_enabled()}]

    def tally(self, items):
        return {name: np.array([float(item[name]) for item in items]) for name in ("training", "grad")}

    def metrics(self, sums):
        return sums


class Failing(Looking):
    def measure(self, model, unit):
        raise RuntimeError("out of memory")


def model():
    network = TinyModel()
    network.pixels.eval()  # a frozen part that stays in eval mode during training
    return network


def modes(network):
    return [module.training for module in network.modules()]


def test_eval_mode_without_gradient_and_every_mode_restored():
    network = model()
    stream = io.StringIO()
    progress = Progress(1, console=Console(file=stream))
    with pytest.warns(UserWarning, match=r"1 of 2 items of a were not used: 1 x no picture, e.g. x7 \(gone\)"):
        results = evaluate_all(network, {"a": Looking(), "b": Looking()}, progress)
    assert results["a"].metrics == results["b"].metrics == {"training": 0.0, "grad": 0.0, "n_bad": 1.0}
    assert modes(network) == modes(model())
    assert torch.is_grad_enabled()
    assert "evaluating a 2/2" in stream.getvalue()


def test_modes_are_restored_after_an_error():
    network = model()
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate_all(network, {"a": Failing()}, Progress(1, quiet=True))
    assert modes(network) == modes(model())


def test_table():
    stream = io.StringIO()
    table = before_after_table(BEFORE, AFTER, Console(file=stream, width=100))
    assert "| refcoco | cIoU | 0.5000 | 0.6250 | +0.1250 |  |" in table
    assert "| refcoco | n_expressions | 40 | 40 | +0 |  |" in table
    assert "| region_caption | caption_ce | – | 1.5000 | – |  |" in table
    assert "+0.1250" in stream.getvalue()


class Lowest:
    lowest_is_best = frozenset({"ce"})


def drawn(values, asked="the same", **draws):
    return {"a": Evaluation(values, draws=draws, asked=asked)}


def test_a_change_is_marked_where_its_interval_leaves_out_zero():
    wave = [0.1 * math.sin(number) for number in range(60)]
    before = drawn({"iou": 0.5, "ce": 1.0, "other": 0.2, "coarse": 1.0}, iou=[0.5 + x for x in wave], ce=[1 + x for x in wave], other=wave)
    after = drawn(
        {"iou": 0.7, "ce": 0.8, "other": 0.2, "coarse": 0.0},
        iou=[None, *(0.7 + 0.9 * x for x in wave[1:])],
        ce=[0.8 + 0.9 * x for x in wave],
        other=[0.5 * x for x in wave],
    )
    before["a"].draws["coarse"], after["a"].draws["coarse"] = [1.0] * 60, [0.0] * 60
    table = before_after_table(before, after)
    assert "| a | iou | 0.5000 | 0.7000 | **+0.2000** | +0.19" in table
    assert "| a | other | 0.2000 | 0.2000 | +0.0000 | " in table
    assert "| a | coarse | 1.0000 | 0.0000 | -1.0000 | " in table, "equal steps of a coarse metric are no certainty"
    assert seen(before, after, {"a": Lowest()}) == "better: a/iou +0.200, a/ce -0.200; the others (1): the interval holds 0"
    assert seen(after, before, {"a": Lowest()}).startswith("worse: a/iou -0.200, a/ce +0.200; ")
    assert seen(before, after, {}).startswith("changed: a/iou +0.200, a/ce -0.200; ")
    assert seen(before, before, {"a": Lowest()}) == "all (4): the interval holds 0"


def test_a_resumed_run_has_the_draws_of_before_and_an_older_one_has_none(tmp_path):
    strategy = SimpleNamespace(exchange=Alone())
    built = SimpleNamespace(folder=tmp_path, trainer=SimpleNamespace(strategy=strategy), start=3)
    before = drawn({"iou": 0.5}, iou=[0.4, None, 0.6])
    (tmp_path / "before.json").write_text(json.dumps({"a": before["a"].metrics}))
    assert before_training(built, Progress(0, quiet=True))["a"].draws == {}
    (tmp_path / DRAWS_BEFORE).write_text(json.dumps(dict(all_draws(before))))
    assert before_training(built, Progress(0, quiet=True)) == before


def test_evaluations_of_other_items_have_no_interval():
    before, after = drawn({"iou": 0.5}, iou=[0.5] * 60), drawn({"iou": 0.7}, asked="others", iou=[0.7] * 60)
    assert "| +0.2000 |  |" in before_after_table(before, after)
    assert seen(before, after, {"a": Lowest()}) == ""


def test_result_files(tmp_path):
    extra = {"seconds": 12.34567, "checkpoint": Path("a/b"), "losses": {"loop1": 0.5, "loop2": float("inf")}}
    write_result(tmp_path / "run", BEFORE, AFTER, extra)
    text = (tmp_path / "run" / "result.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    result = json.loads(text)
    assert result["before"]["refcoco"]["cIoU"] == 0.5
    assert result["after"]["refcoco"] == {"cIoU": 0.625, "n_expressions": 40.0, "gIoU": None}
    assert result["losses"] == {"loop1": 0.5, "loop2": None}
    assert result["checkpoint"] == "a/b"
    markdown = (tmp_path / "run" / "result.md").read_text()
    assert "+0.1250" in markdown
    assert "- losses: loop1 0.5, loop2 inf" in markdown
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["result.json", "result.md"]


def test_names_for_trackers():
    assert metric_values(BEFORE) == {"refcoco/cIoU": 0.5, "refcoco/n_expressions": 40.0}


class Hanging(Looking):
    """Its first unit reads from a network disk that does not answer."""

    def __init__(self, pipe: Path) -> None:
        self.pipe = pipe

    def measure(self, model, unit):
        os.kill(os.getpid(), signal.SIGTERM)
        return [{"id": self.pipe.read_text(), "training": 0, "grad": 0}]


def test_a_read_that_hangs_does_not_keep_a_run_that_is_asked_to_stop(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")  # nobody writes into it
    monkeypatch.setattr(stopping, "GRACE_S", 0.1)
    network = model()
    before = modes(network)
    evaluators = {"hanging": Hanging(tmp_path / "pipe")}
    with stopping.listening():
        with stopping.patiently(), pytest.raises(Unfinished, match="hanging"):  # between updates: the run saves, then stops
            evaluate_all(network, evaluators, Progress(0, quiet=True))
        assert stopping.asked() == signal.SIGTERM
    with stopping.listening(), pytest.raises(stopping.Stopped):  # before training there is nothing to save
        evaluate_all(network, evaluators, Progress(0, quiet=True))
    assert modes(network) == before


def test_facts_that_hold_lists_have_a_line_for_each_of_their_keys(tmp_path: Path) -> None:
    sources = {
        "loops.a.data.one": [{"used": 3, "of": 4, "left_out": {"crowd": 1}, "notes": []}],
        "loops.b.data.two": [{"used": 2, "of": 2, "left_out": {}}],
    }
    write_result(tmp_path, {}, {}, {"loss": "2 -> 1", "data": sources})
    text = (tmp_path / "result.md").read_text()
    assert "- loss: 2 -> 1\n- data:\n  - loops.a.data.one: used 3, of 4, left_out crowd 1\n  - loops.b.data.two: used 2, of 2\n" in text
