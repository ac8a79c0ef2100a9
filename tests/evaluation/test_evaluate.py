"""The command: what it writes, shares, resumes and refuses."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.checkpoints.trained_weights import VARIANTS, open_run
from core.commands import convert
from core.commands.evaluate import main
from core.comparison.runs import drawn, read_run
from core.engine import runner
from core.engine.evaluation import evaluate
from core.engine.history import kept_terms
from core.engine.parallel.exchange import Alone
from core.engine.progress import Progress
from core.evaluation import measure, store
from core.evaluation.intervals import interval
from core.evaluation.measure import Options
from core.evaluation.source import read_job
from core.registry import Registry
from plugins.datasets.refcoco import Refcoco
from plugins.evaluators.refcoco import RefcocoEvaluator
from tests.engine.children import Command
from tests.patience import HANGS_S

TINY = "core.testing.tiny_model:TinyModel"


def card(folder: Path) -> dict:
    return json.loads((folder / "card.json").read_text())


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]


@pytest.fixture
def job(world: Path, tmp_path: Path) -> list[str]:
    """Arguments that measure the tiny model on every expression and every described region of the world's held-out part."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        f"""
model: {{use: "{TINY}"}}
evaluate:
  referring: {{use: refcoco, max_new_tokens: 8, data: {{use: refcoco, root: {world}/ref_seg, split: val}}}}
  caption: {{use: region_caption, caption_length: 6, data: {{use: dam.lvis, root: {world}/dam_val}}}}
"""
    )
    return [str(recipe), "--out", str(tmp_path / "out")]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_a_published_folder(small_checkpoint: Path, world: Path, tmp_path: Path, out: Path) -> None:
    arguments = [str(small_checkpoint), "--use", "refcoco", "--data", "refcoco", f"root={world}/ref_seg", "split=testA"]
    assert main([*arguments, "max_samples=4", "max_texts_per_image=2", "max_new_tokens=4", "model.max_tiles=1", "--out", str(out)]) == 0
    folder = out / "refcoco-testA"
    made = card(folder)
    assert len(lines(folder / "full")) == made["results"]["refcoco-testA"]["n_expressions"]["value"] <= 8
    assert made["results"]["refcoco-testA"]["n_pictures"]["value"] == 4
    low, high = made["results"]["refcoco-testA"]["cIoU"]["interval"]
    assert low <= made["results"]["refcoco-testA"]["cIoU"]["value"] <= high
    assert made["protocol"]["data"] | {"root": ""} == {
        **{"use": "refcoco", "root": "", "split": "testA", "dataset": "refcoco", "split_by": "unc"},
        **{"text": "sent", "images": None, "empty_masks": False, "max_samples": None, "draft": None},
    }
    assert (made["protocol"]["max_samples"], made["protocol"]["max_texts_per_image"], made["protocol"]["max_new_tokens"]) == (4, 2, 4)
    assert made["model"]["max_tiles"] == 1
    assert len(made["checkpoint"]["sha256"]) == 64
    assert {"dualloop", "torch", "transformers"} <= set(made["versions"])
    assert "| cIoU |" in (folder / "card.md").read_text()
    assert (folder / "full" / "sheet.png").stat().st_size > 1000


def test_ablation_of_a_run_from_one_loaded_model_and_the_page_that_compares(tiny, world: Path, monkeypatch, capsys) -> None:
    recipe = tiny("train.updates=2", "optimizer.lr=0.05")
    assert runner.run(recipe, Registry(), quiet=True) == 0
    [run] = Path(recipe.values["output"]).iterdir()
    opened = []
    monkeypatch.setattr(measure, "open_run", lambda *given: opened.append(given) or open_run(*given))
    capsys.readouterr()
    arguments = [
        str(run),
        "--use",
        "refcoco",
        "--data",
        "refcoco",
        f"root={world}/ref_seg",
        "split=val",
        "max_samples=5",
        "max_new_tokens=4",
    ]
    assert main([*arguments, "ablate=true"]) == 0
    assert len(opened) == 1
    assert "refcoco-val [lora] 5/5" in capsys.readouterr().out
    folder = run / "evaluation" / "update-000002" / "refcoco-val"
    made = card(folder)
    assert made["checkpoint"]["update"] == 2
    assert len(next(iter(made["base"].values()))) == 64
    assert list(made["results"]) == ["refcoco-val", *(f"refcoco-val:{name}" for name in VARIANTS if name != "full")]

    trained = open_run(run, Registry())  # what an evaluator says of the same weights inside a run
    evaluator = RefcocoEvaluator(data=Refcoco(root=world / "ref_seg", split="val"), max_samples=5, max_new_tokens=4)
    for variant in ("full", "projector"):
        trained.use(variant)
        metrics = evaluate("refcoco", evaluator, trained.model, Progress(0, quiet=True)).metrics
        name = "refcoco-val" if variant == "full" else f"refcoco-val:{variant}"
        assert {key: given["value"] for key, given in made["results"][name].items()} == metrics
    assert lines(folder / "full") != lines(folder / "projector")  # the variants are different models

    difference = made["results"]["refcoco-val:lora"]["cIoU"]["to_full"]
    values = [made["results"][name]["cIoU"]["value"] for name in ("refcoco-val:lora", "refcoco-val")]
    assert difference["value"] == values[0] - values[1]
    read = read_run(run)  # two runs are compared by their draws as the variants of one are
    mine, whole = drawn(read, "refcoco-val:lora"), drawn(read, "refcoco-val")
    assert mine is not None
    assert whole is not None
    assert (mine.items, mine.units) == (whole.items, 5)
    ends = interval(np.array(mine.draws["cIoU"], float) - np.array(whole.draws["cIoU"], float))
    assert ends == (pytest.approx(difference["interval"][0], abs=1e-6), pytest.approx(difference["interval"][1], abs=1e-6))
    assert set(kept_terms(run)) == {name for name in read.losses() if name.count("/") == 2} != set()
    assert difference["interval"][0] <= difference["value"] <= difference["interval"][1]
    assert "Differences to full" in (folder / "card.md").read_text()

    after = read_run(run).after
    full = after["refcoco-val/cIoU"]
    assert [full.low, full.high] == made["results"]["refcoco-val"]["cIoU"]["interval"]
    assert after["refcoco-val:lora/cIoU"].value == made["results"]["refcoco-val:lora"]["cIoU"]["value"]

    moved = Path(shutil.move(run, run.with_name("moved")))
    monkeypatch.chdir(moved.parent)
    arguments[0], folder = moved.name, moved / folder.relative_to(run)
    assert main([*arguments, "--groups", "base"]) == 0  # measures the base alone; the card keeps what was there
    assert set(card(folder)["results"]) == {*made["results"], "refcoco-val:base"}
    assert main([*arguments, "--groups", "lora+head"]) == 2
    assert "head was not trained here" in capsys.readouterr().err


class Share(Alone):
    """One of several processes, run one after the other in this one."""

    def __init__(self, rank: int, world: int, said: list) -> None:
        self.rank, self.world, self.said, self.heard = rank, world, said, 0

    def from_main(self, give):
        if self.main:
            self.said.append(json.loads(json.dumps(give())))
        self.heard += 1
        return self.said[self.heard - 1]

    def gather(self, value):
        return [value]


def test_training_files_exports_and_adapters_are_measured_like_the_run(tiny, small_checkpoint: Path, world: Path, tmp_path: Path) -> None:
    recipe = tiny("train.updates=2", "optimizer.lr=0.02")
    assert runner.run(recipe, Registry(), quiet=True) == 0
    [run] = Path(recipe.values["output"]).iterdir()
    file, export, adapter = tmp_path / "run.pth", tmp_path / "export", tmp_path / "adapter"
    for made, options in ((file, []), (export, []), (adapter, ["--adapter"])):
        assert convert.main([str(run), str(made), *options]) == 0
    data = ["--use", "refcoco", "--data", "refcoco", f"root={world}/ref_seg", "split=val", "max_samples=3", "max_new_tokens=4", "--quiet"]
    base = ["--base", str(small_checkpoint)]
    sources = {
        "run": (run, []),
        "lora": (run, ["--groups", "lora"]),
        "file": (file, base),
        "export": (export, []),
        "adapter": (adapter, base),
    }
    items = {}
    for name, (source, options) in sources.items():
        assert main([str(source), *data, *options, "--out", str(tmp_path / name)]) == 0
        [found] = (tmp_path / name / "refcoco-val").glob("*/items.jsonl")
        items[name] = found.read_text()
    assert items["file"] == items["export"] == items["run"]
    assert items["adapter"] == items["lora"]
    assert items["lora"] != items["run"]


def test_the_same_result_with_any_number_of_processes(job: list[str], tmp_path: Path, monkeypatch, world: Path) -> None:
    finish, finished = measure._finish, []
    monkeypatch.setattr(measure, "_finish", lambda *given: finished.append(given))
    found = {}
    for processes in (1, 2, 4):
        registry, said = Registry(), []
        asked, faults = read_job(Path(job[0]), None, None, None, [], registry)
        assert not faults
        out = tmp_path / str(processes)
        for rank in range(processes):
            measure.run(asked, registry, Options(out, quiet=True), Share(rank, processes, said))
        for given in finished[-2:]:
            finish(*given)
        assert all(not list((out / name / "full").glob("part-*")) for name in ("referring", "caption"))
        cards = [card(out / name) for name in ("referring", "caption")]
        found[processes] = [
            *((out / name / "full" / file).read_bytes() for name in ("referring", "caption") for file in ("items.jsonl", "sheet.png")),
            *({key: value for key, value in made.items() if key not in ("processes", "made")} for made in cards),
        ]
    assert found[1] == found[2] == found[4]
    ids = [item["id"] for item in lines(tmp_path / "4" / "referring" / "full")]
    data = Refcoco(root=world / "ref_seg", split="val")
    assert sorted(ids) == sorted(data[index].id for index in range(len(data)))


def test_two_processes_of_the_real_command(job: list[str], out: Path, tmp_path: Path, capsys) -> None:
    two = Command("core.evaluate", *job[:1], "evaluate.caption=null", "max_samples=6", "--processes", 2, "--out", tmp_path / "two")
    said, errors = two.communicate(HANGS_S)
    assert two.returncode == 0, errors
    assert "process 1 of 2 3/3" in said
    assert main([*job, "evaluate.caption=null", "max_samples=6"]) == 0
    assert lines(out / "referring" / "full") == lines(tmp_path / "two" / "referring" / "full")
    assert card(out / "referring")["results"] == card(tmp_path / "two" / "referring")["results"]
    assert main([*job[:1], "evaluate.caption=null", "--out", "/dev/null/no"]) == 2
    assert "/dev/null/no/referring cannot be written" in capsys.readouterr().err


def test_an_interrupted_evaluation_goes_on(job: list[str], out: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    assert main([*job[:1], "--out", str(tmp_path / "whole")]) == 0
    real, calls = measure.measured, []

    def interrupted(evaluator, model, unit):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(unit)
        return real(evaluator, model, unit)

    monkeypatch.setattr(measure, "measured", interrupted)
    assert main(job) == 130
    assert "the same command continues" in capsys.readouterr().err
    assert calls == [0, 1, 2, 3, 4]
    assert not (out / "referring" / "card.json").exists()
    part = out / "referring" / "full" / "part-000.jsonl"
    part.write_bytes(part.read_bytes() + b'{"unit": 5, "it')  # killed while it wrote
    calls[:] = ["resumed"] * 6
    assert main(job) == 0
    assert calls[6] == 5
    assert "referring: 5 of " in capsys.readouterr().out
    for name in ("referring", "caption"):
        assert lines(out / name / "full") == lines(tmp_path / "whole" / name / "full")
        assert card(out / name)["results"] == card(tmp_path / "whole" / name)["results"]
    calls.clear()
    assert main(job) == 0  # all is there: nothing is measured again
    assert calls == []


def test_a_full_disk_is_one_sentence_and_what_was_measured_stands(job: list[str], out: Path, monkeypatch, capsys) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    whole = store.write_whole
    monkeypatch.setattr(store, "write_whole", lambda path, text: (full if path.name == "items.jsonl" else whole)(path, text))
    assert main([*job, "max_samples=2"]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "No space left on device" in errors
    monkeypatch.undo()
    assert main([*job, "max_samples=2"]) == 0


def test_other_settings_do_not_mix_with_what_is_there(job: list[str], out: Path, capsys) -> None:
    assert main([*job, "max_samples=3", "--quiet"]) == 0
    assert main([*job, "max_samples=4", "--quiet"]) == 2
    assert "max_samples was 3, is 4" in capsys.readouterr().err
    assert len({item["unit"] for item in lines(out / "referring" / "full")}) == 3
    assert main([*job, "max_samples=4", "--quiet", "--overwrite"]) == 0
    assert len({item["unit"] for item in lines(out / "referring" / "full")}) == 4


def test_a_picture_that_is_none(world: Path, job: list[str], tmp_path: Path, out: Path, capsys) -> None:
    copy = shutil.copytree(world / "ref_seg", tmp_path / "ref_seg")
    data = Refcoco(root=copy, split="val")
    sample = data[0].id
    name = data._index.text("file", int(data._index["picture"][0]))
    (data._folder / name).write_text("this is no picture")
    arguments = [*job, f"evaluate.referring.data.root={copy}", "evaluate.caption=null", "max_samples=3"]
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "evaluator referring: " in errors
    assert sample in errors
    assert [path.name for path in out.rglob("*") if path.name.startswith(("card", "sheet", "items"))] == []
    many = len(data.images()[0])
    assert main([*arguments, "--max-bad", str(many)]) == 0
    made = card(out / "referring")
    assert made["results"]["referring"]["n_bad"]["value"] == many
    assert made["results"]["referring"]["n_pictures"]["value"] == 2
    assert made["bad"].startswith(f"{many} x ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["{checkpoint}", "--use", "refcoco", "--data", "refcoco", "root={world}/ref_seg", "split=testC"],
            "no expression in the split testC; it has testA, train, val",
        ),
        (
            ["{checkpoint}", "--use", "refcoco", "--data", "refcoco", "root={world}/ref_seg", "split=testB"],
            "no expression in the split testB",
        ),
        (["{checkpoint}", "--use", "refcoco", "--data", "refcoco", "root=/nowhere", "split=val"], "/nowhere"),
        (["{checkpoint}", "--use", "refcoco", "--data", "refcoco"], "root"),
        (["{checkpoint}", "--use", "refcoco"], "missing key 'data'"),
        (["{checkpoint}", "--use", "refcocco", "--data", "refcoco"], "did you mean 'refcoco'?"),
        (["{checkpoint}", "--data", "refcoco"], "--data goes with --use"),
        (["{checkpoint}"], "names no evaluator"),
        (["{recipe}", "max_sample=3"], "did you mean 'max_samples'?"),
        (["{recipe}", "evaluate.referring.max_samples=0"], "max_samples: expected a value >= 1, got 0"),
        (["{recipe}", "evaluate.caption=null", "max_samples=many"], "expected an integer"),
        (["{recipe}", "max_samples"], "write key=value"),
        (["{recipe}", "ablate=yes"], "ablate=true or ablate=false"),
        (["{recipe}", "ablate=true"], "need what was trained"),
        (["{recipe}", "--groups", "lora"], "need what was trained"),
        (["{recipe}", "--base", "{checkpoint}"], "knows its base itself"),
        (["{recipe}", "--device", "cuda"], "launch asks for 1 GPUs"),
        (["nowhere"], "nowhere: not found"),
        (["{world}"], "holds no checkpoint"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    arguments, said, job: list[str], out: Path, small_checkpoint: Path, world: Path, capsys
) -> None:
    if "cuda" in arguments:
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
    places = {"checkpoint": small_checkpoint, "world": world, "recipe": job[0]}
    assert main([*(argument.format(**places) for argument in arguments), "--out", str(out)]) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert errors.count("\n") == 1
    assert not out.exists()


def test_help_needs_no_torch() -> None:
    code = "import sys, core.evaluate\ntry: core.evaluate.main(['--help'])\nexcept SystemExit: assert 'torch' not in sys.modules"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "ablate=true" in shown
    assert "--processes" in shown
