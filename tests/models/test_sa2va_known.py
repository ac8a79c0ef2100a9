"""Which published checkpoint a folder is, by its sizes, before anything is loaded."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from checkpoints import CHECKPOINT, copy, published_shapes

from benchmarks.cards import ON_QWEN_VL, PUBLISHED, config_of
from core.commands.run import report
from core.preflight import machine
from core.recipe import Recipe
from core.registry import Registry
from plugins.models.sa2va.components import load
from plugins.models.sa2va.published.known import identity

QWEN = CHECKPOINT.parents[1] / "families" / "qwen3_vl" / "tiny"
#: Billions of parameters.
SIZES = {
    "Sa2VA-1B": 1.16,
    "Sa2VA-4B": 3.9,
    "Sa2VA-8B": 8.3,
    "Sa2VA-26B": 25.8,
    "Sa2VA-InternVL3-2B": 2.3,
    "Sa2VA-InternVL3-8B": 8.2,
    "Sa2VA-InternVL3-14B": 15.4,
    "Sa2VA-Qwen2_5-VL-3B": 4.3,
    "Sa2VA-Qwen2_5-VL-7B": 8.5,
    "Sa2VA-Qwen3-VL-2B": 2.7,
    "Sa2VA-Qwen3-VL-4B": 5.05,
}


@pytest.mark.parametrize("name", SIZES)
def test_the_published_sizes_are_known_and_have_their_parameters(name: str) -> None:
    assert SIZES.keys() == PUBLISHED.keys() | ON_QWEN_VL.keys()
    config = config_of(name)
    assert f"the sizes of {name} ({'Qwen' if name in ON_QWEN_VL else 'InternVL'}" in identity(config, "config.json")
    shapes = published_shapes(config)
    assert sum(map(math.prod, shapes.values())) == pytest.approx(SIZES[name] * 1e9, rel=0.03)
    if "internlm2" in config["template"]:
        llm = config["llm_config"]
        width, head = llm["hidden_size"], llm["hidden_size"] // llm["num_attention_heads"]
        fused = (head * (llm["num_attention_heads"] + 2 * llm["num_key_value_heads"]), width)
        last = f"language_model.model.layers.{llm['num_hidden_layers'] - 1}"
        assert shapes[f"{last}.attention.wqkv.weight"] == fused
        assert shapes["language_model.model.tok_embeddings.weight"] == shapes["language_model.output.weight"] == (92558, width)
        assert f"{last}.attention.wqkv.bias" not in shapes
    assert ("vision_model.encoder.layers.0.attn.q_norm.weight" in shapes) == (name == "Sa2VA-26B")


def test_another_size_is_told() -> None:
    config = config_of("Sa2VA-4B")
    config["llm_config"]["num_hidden_layers"] = 35
    assert "the sizes of no published Sa2VA: Qwen2ForCausalLM 2048 wide in 35 layers" in identity(config, "config.json")
    assert "SAM2 of its own sizes" in identity(config_of("Sa2VA-4B") | {"sam2_config": {"image_size": 64}}, "config.json")


def test_checks_tell_which_checkpoint_it_is(tmp_path: Path, tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy(tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    recipe: Recipe = tiny(f"model.checkpoint={folder}")
    sentence = f"{folder} has the sizes of no published Sa2VA: Qwen2ForCausalLM 128 wide in"
    [finding] = machine.known(recipe, Registry())
    assert (finding.subject, finding.status) == ("model", "pass")
    assert sentence in finding.text
    report(recipe, Registry())
    assert f"model: {sentence}" in capsys.readouterr().out
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["Qwen3VLForConditionalGeneration"]}))
    assert list(machine.known(recipe, Registry())) == []
    with pytest.raises(Exception, match=r"checkpoint .*: this is a Qwen3VLForConditionalGeneration, which is not supported; known are"):
        load.check_keys(checkpoint=folder)
    assert "the sizes of no published Sa2VA: Qwen3VLTextModel 64 wide in 4 layers" in str(load.identity(checkpoint=QWEN))
    assert load.identity(checkpoint=tmp_path / "nowhere") is None
    assert load.check_keys(checkpoint=CHECKPOINT) is None
