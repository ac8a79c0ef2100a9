"""``core.convert`` on a real run of the small model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core import convert
from core.engine import runner
from core.recipe import Recipe
from core.registry import Registry
from core.trained import VARIANTS, open_run


@pytest.fixture
def run(tiny: Callable[..., Recipe]) -> Path:
    recipe = tiny("optimizer.lr=0.01", "train.updates=2")
    assert runner.run(recipe, Registry(), quiet=True) == 0
    return next(Path(recipe.values["output"]).iterdir())


def test_variants_change_their_groups_only_and_verify(
    run: Path, tmp_path: Path, small_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = load_file(small_checkpoint / "model.safetensors")
    for number, variant in enumerate(VARIANTS):
        out = tmp_path / f"out{number}"
        source = run / "checkpoints" / "update-000002" if number else run
        assert convert.main([str(source), str(out), "--groups", variant, "--verify", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        changed = {row["group"] for row in report["changes"] if row["changed"]}
        assert changed == set(VARIANTS[variant])
        assert report["verify"]["mask_pixels"] == 0
        assert report["verify"]["logits"] < 1e-5
        stored = load_file(out / "model.safetensors")
        assert stored.keys() == base.keys()
        for key in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
            assert torch.equal(stored[key], base[key])


def test_verification_notices_a_wrong_export(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from plugins.models.sa2va import model as module

    monkeypatch.setattr(module, "merged_tensors", lambda network: {n: t.detach() for n, t in module.native_tensors(network).items()})
    assert convert.main([str(run), str(tmp_path / "out"), "--verify"]) == 1  # the adapters were left out


def test_adapters_alone_load_in_peft(run: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    assert convert.main([str(run), str(tmp_path / "adapter"), "--adapter"]) == 0
    live = open_run(run, Registry()).model.eval()
    plain = Registry().get("models", "sa2va").create(checkpoint=live.base).eval()
    adapted = PeftModel.from_pretrained(plain.network.llm, tmp_path / "adapter")
    embeds = torch.randn(1, 5, live.embedding().shape[1])
    with torch.no_grad():
        theirs = adapted(inputs_embeds=embeds).logits
        assert torch.allclose(theirs, live.network.llm(inputs_embeds=embeds).logits, atol=1e-5)
    assert not torch.equal(theirs, torch.zeros_like(theirs))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "{run}"], "already exists"),
        (["{tmp}/nowhere", "{tmp}/out"], "not found"),
        (["{tmp}", "{tmp}/out"], "holds no checkpoint"),
        (["{run}", "{tmp}/out", "--groups", "lora+vision"], "vision was not trained here"),
        (["{run}/recipe.json", "{tmp}/out"], "--base"),
        (["{run}/recipe.json", "{tmp}/out", "--base", "{base}"], "recipe.json"),
    ],
)
def test_faults_are_one_sentence_and_leave_nothing(
    run: Path, tmp_path: Path, small_checkpoint: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    filled = [argument.format(run=run, tmp=tmp_path, base=small_checkpoint) for argument in arguments]
    assert convert.main(filled) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "out").exists()
