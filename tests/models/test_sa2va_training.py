"""The training view: what is trained, in which precision, and what is known before a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import CHECKPOINT, copy
from safetensors.torch import load_file, save_file
from torch import nn

from core.contracts import UserError
from core.engine import runner
from core.preflight import machine
from core.recipe import Recipe
from core.registry import Registry
from plugins.models.sa2va.components import Lora, load
from plugins.models.sa2va.published.facts import facts
from plugins.models.sa2va.published.folder import stored_tensors


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [value for line in lines for name, value in line.items() if name.endswith("/loss")]


def test_a_bf16_run_keeps_float32_masters_and_trains_the_whole_decoder(tiny: Callable[..., Recipe], small_checkpoint: Path) -> None:
    """Frozen base in bfloat16, trained weights float32, autocast: two updates through the engine."""
    seen = []
    for overrides in (["model.dtype=bfloat16", "train.precision=bf16"], ["train.precision=fp32"]):
        recipe = tiny("optimizer.lr=0.001", "train.updates=2", "model.lora={r: 4, alpha: 8, dropout: 0.0}", *overrides)
        before = set(Path(recipe.values["output"]).iterdir()) if Path(recipe.values["output"]).is_dir() else set()
        assert runner.run(recipe, Registry(), quiet=True) == 0
        [folder] = set(Path(recipe.values["output"]).iterdir()) - before
        seen.append(losses(folder))
        trained = load_file(folder / "checkpoints" / "update-000002" / "trained.safetensors")
        assert {tensor.dtype for tensor in trained.values()} == {torch.float32}
        start = load(checkpoint=small_checkpoint)
        for name, parameter in start.trainable()["sam2_decoder"]:
            if "conv_s" in name:
                assert not torch.equal(trained[f"sam2_decoder/{name}"], parameter), name
    assert len(seen[0]) == len(seen[1]) > 0
    assert seen[0] == pytest.approx(seen[1], rel=0.1)
    assert seen[0] != seen[1]  # the precision did change


def test_a_bfloat16_base_is_bfloat16_but_for_what_is_trained() -> None:
    model = load(checkpoint=CHECKPOINT, lora=Lora(r=4), dtype="bfloat16")
    trained = {id(parameter) for members in model.trainable().values() for _, parameter in members}
    for name, parameter in model.network.named_parameters():
        assert parameter.dtype == (torch.float32 if id(parameter) in trained else torch.bfloat16), name
        assert parameter.requires_grad == (id(parameter) in trained), name
    rotary = model.network.llm.model.rotary_emb.inv_freq
    assert torch.equal(rotary, load(checkpoint=CHECKPOINT).network.llm.model.rotary_emb.inv_freq)


def test_adapters_are_on_every_linear_layer_of_the_language_model() -> None:
    model = load(checkpoint=CHECKPOINT, lora=Lora(r=4, alpha=16))
    linear = {name for name, module in load(checkpoint=CHECKPOINT).network.llm.named_modules() if isinstance(module, nn.Linear)}
    adapted = {name.removeprefix("llm.").split(".lora_")[0] for name, _ in model.trainable()["lora"]}
    assert adapted == linear - {"lm_head"}
    assert len(adapted) == 3 * 7
    assert not any(name for name, _ in model.network.named_parameters() if "lora" in name and not name.startswith("llm."))


def test_groups_are_counted_and_printed_with_their_share(tiny: Callable[..., Recipe], small_checkpoint: Path) -> None:
    told, finding = machine.model_facts(tiny(), Registry())
    model = load(checkpoint=small_checkpoint, lora=Lora(r=4))
    total = sum(parameter.numel() for parameter in model.network.parameters())
    assert told["parameters"] == total
    for group, members in model.trainable().items():
        count = sum(parameter.numel() for _, parameter in members)
        assert f"{group} {count:,} ({count / total:.2%})" in finding.text
    [answer] = machine.answers(told)
    assert answer.status == "pass"
    assert "can emit it: lora" in answer.text


def test_whether_seg_can_be_emitted_is_known_before_the_run(tmp_path: Path) -> None:
    assert facts(checkpoint=CHECKPOINT, lora=Lora(r=4))["seg"][0] == "pass"
    adapted = load(checkpoint=CHECKPOINT, lora=Lora(r=4))
    adapted.save_adapter(tmp_path / "adapter")
    assert facts(checkpoint=CHECKPOINT, file=tmp_path / "adapter")["trained"] == facts(checkpoint=CHECKPOINT, lora=Lora(r=4))["trained"]
    status, text = facts(checkpoint=CHECKPOINT, train=["sam2_decoder"])["seg"]
    assert (status, "nothing that is trained can learn to emit it" in text) == ("warn", True)
    folder, tensors = copy(tmp_path / "zero"), dict(stored_tensors(CHECKPOINT))
    seg = load(checkpoint=CHECKPOINT).seg_token
    tensors["language_model.lm_head.weight"][seg] = 0
    save_file(tensors, folder / "model.safetensors")
    status, text = facts(checkpoint=folder, lora=Lora(r=4))["seg"]
    assert (status, f"row {seg} of the output layer is zero" in text) == ("fail", True)


@pytest.mark.parametrize("token", ["[SEG]", "<vp>", "<IMG_CONTEXT>"])
def test_a_special_token_of_several_ids_is_refused(token: str, tmp_path: Path) -> None:
    folder = copy(tmp_path / "split")
    for name in ("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"):
        file = folder / name
        file.write_text(file.read_text(encoding="utf-8").replace(json.dumps(token), json.dumps(f"{token}?")), encoding="utf-8")
    for look in (facts, load):
        with pytest.raises(UserError) as caught:
            look(checkpoint=folder)
        assert f"{token!r} is" in str(caught.value)
        assert "one special token" in str(caught.value)
