"""One owner of precision: what a model computes with in training and out of it, and what a card says of it."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from core.checkpoints.trained_weights import open_run
from core.commands import convert
from core.commands.evaluate import main
from core.contracts import UserError
from core.engine import runner
from core.engine.evaluation import evaluate
from core.engine.progress import Progress
from core.evaluation import measure
from core.recipe import check, load
from core.registry import Registry

BF16 = ("model.dtype=bfloat16", "model.lora={r: 4, alpha: 8, dropout: 0.0}")


class Touching:
    """A third-party evaluator: it calls every forward that the contract has, and notes what they gave."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return 1

    def measure(self, model, unit):
        region = self.data[0]
        batch = model.preparation.collate([model.preparation(region, frozenset({"caption"}))]).to(model.embedding().device)
        vision, tokens = model.encode(batch), model.tokenize([region.caption], 6)
        states = model.caption_states(vision, batch.view1, batch.cells, tokens)  # [1, T, D]
        text = model.phrases([region.caption], 6)
        wording = model.wording([region.id], None)
        segmented = model.segment(vision, batch.view1, model.embed(text.ids), text.mask, wording)
        masks = model.masks(vision, batch.view1, model.seg_embedding(states[:, 0]))  # [1, h, w]
        return [{"id": region.id, "finite": all(bool(t.isfinite().all()) for t in (states, masks, segmented.mask_logits))}]

    def tally(self, items):
        return {"finite": np.array([float(item["finite"]) for item in items])}

    def metrics(self, sums):
        return sums


def test_any_evaluator_may_call_every_forward_of_a_base_in_bfloat16(small_checkpoint: Path, world: Path) -> None:
    registry = Registry()
    model = registry.get("models", "sa2va").create(checkpoint=small_checkpoint, dtype="bfloat16", train=["projector", "text_hidden_fcs"])
    data = registry.get("datasets", "dam.lvis").create(root=world / "dam_val")
    for name, evaluator in {
        "third": Touching(data),
        "caption": registry.get("evaluators", "region_caption").create(data=data, caption_length=6, max_samples=2),
    }.items():
        assert evaluate(name, evaluator, model, Progress(1, quiet=True)).metrics["n_bad"] == 0


def test_region_caption_of_a_published_folder_in_bfloat16(small_checkpoint: Path, world: Path, tmp_path: Path) -> None:
    arguments = [str(small_checkpoint), "--use", "region_caption", "--data", "dam.lvis", f"root={world}/dam_val", "max_samples=2"]
    assert main([*arguments, "caption_length=6", "model.dtype=bfloat16", "--out", str(tmp_path / "out"), "--quiet"]) == 0


def test_the_default_precision_is_that_of_the_dtype(tiny) -> None:
    """A base in bfloat16 and nothing said of the precision: bf16 arithmetic, trained weights float32."""
    recipe = tiny("train.updates=1", *BF16)
    assert runner.run(recipe, Registry(), quiet=True) == 0
    [run] = Path(recipe.values["output"]).iterdir()
    trained = load_file(run / "checkpoints" / "update-000001" / "trained.safetensors")
    assert {tensor.dtype for tensor in trained.values()} == {torch.float32}


def test_float32_arithmetic_on_a_base_in_bfloat16_is_a_fault_of_the_recipe(tiny, capsys) -> None:
    sound = tiny("train.updates=1")
    recipe = load(sound.file, [*BF16, "train.precision=fp32"])
    [fault] = [str(fault) for fault in check(recipe, Registry()) if "precision" in str(fault)]
    assert "fp32 does not go with model.dtype=bfloat16: write auto or bf16" in fault


def test_the_model_itself_refuses_what_its_weights_do_not_allow(small_checkpoint: Path) -> None:
    model = Registry().get("models", "sa2va").create(checkpoint=small_checkpoint, dtype="bfloat16")
    with pytest.raises(UserError, match=r"train\.precision.*model\.dtype"), model.computing(True, "fp32"):
        pass


def test_modes_gradient_and_precision_come_back(small_checkpoint: Path) -> None:
    """Also where labels are written inside a training step."""
    model = Registry().get("models", "sa2va").create(checkpoint=small_checkpoint, dtype="bfloat16")
    before = [module.training for module in model.modules()]
    with model.computing(True):
        assert model.training
        assert torch.is_grad_enabled()
        assert torch.is_autocast_enabled("cpu")
        with model.computing(False):
            assert not any(module.training for module in model.modules())
            assert not torch.is_grad_enabled()
            assert torch.is_autocast_enabled("cpu")
        assert model.training
        assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert [module.training for module in model.modules()] == before


def test_a_training_file_is_built_as_the_command_line_says_and_the_card_says_so(
    tiny, small_checkpoint: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny("train.updates=1")
    assert runner.run(recipe, Registry(), quiet=True) == 0
    [run] = Path(recipe.values["output"]).iterdir()
    file = tmp_path / "trained.pth"
    assert convert.main([str(run), str(file)]) == 0
    opened, open_file = [], measure.open_file
    monkeypatch.setattr(measure, "open_file", lambda *given: opened.append(open_file(*given)) or opened[-1])
    data = ["--use", "refcoco", "--data", "refcoco", f"root={world}/ref_seg", "split=val", "max_samples=1", "max_new_tokens=2"]
    settings = ["model.dtype=bfloat16", "model.max_tiles=1"]
    assert main([str(file), "--base", str(small_checkpoint), *data, *settings, "--out", str(tmp_path / "out"), "--quiet"]) == 0
    [trained] = opened
    frozen = {parameter.dtype for parameter in trained.model.parameters() if not parameter.requires_grad}
    assert frozen == {torch.bfloat16}
    assert trained.model.preparation.pictures.most == 1
    made = json.loads((tmp_path / "out" / "refcoco-val" / "card.json").read_text())["model"]
    assert (made["dtype"], made["max_tiles"]) == ("bfloat16", 1)
    # what training started from, and what it ended with, are those of the run
    expected = open_run(run, Registry())
    for name, value in expected.values.items():
        assert torch.equal(trained.values[name], value), name
        if "lora" not in name:
            assert torch.equal(trained.base[name], expected.base[name]), name


def test_only_models_decide_precision_and_mode() -> None:
    """Elsewhere autocast is only switched off, for sums that must be exact, and no module is put into another mode."""
    root, found = Path(__file__).parents[2], []
    for file in [*(root / "core").rglob("*.py"), *(root / "plugins").rglob("*.py")]:
        if file.is_relative_to(root / "plugins" / "models") or file.is_relative_to(root / "core" / "testing"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            switches_off = any(keyword.arg == "enabled" and ast.unparse(keyword.value) == "False" for keyword in node.keywords)
            mode = node.func.attr in ("eval", "train") and len(node.args) <= 1 and not node.keywords
            if (node.func.attr == "autocast" and not switches_off) or mode:
                found.append(f"{file.relative_to(root)}:{node.lineno} {ast.unparse(node)}")
    assert found == []
