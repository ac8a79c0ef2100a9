"""Which published checkpoint a folder is, by its sizes, before anything is loaded."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from checkpoints import CHECKPOINT, copy, published_shapes

from core.commands.run import report
from core.preflight import machine
from core.recipe import Recipe
from core.registry import Registry
from plugins.models.sa2va.components import load
from plugins.models.sa2va.published.known import identity

VIT = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
VIT |= {"image_size": 448, "norm_type": "layer_norm", "qkv_bias": True, "qk_normalization": False}
VIT_6B = {"hidden_size": 3200, "num_hidden_layers": 45, "num_attention_heads": 25, "intermediate_size": 12800, "image_size": 448}


def language(width: int, layers: int, inner: int, heads: int, groups: int, internlm2: bool = False) -> dict[str, Any]:
    names = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    sizes: dict[str, Any] = dict(zip(names, (width, layers, inner, heads, groups), strict=True))
    if internlm2:
        return sizes | {"model_type": "internlm2", "architectures": ["InternLM2ForCausalLM"], "bias": False, "vocab_size": 92558}
    return sizes | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 151679}


#: Name -> language model, picture encoder, and billions of parameters.
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
    "Sa2VA-1B": (language(896, 24, 4864, 14, 2), VIT, 1.16),
    "Sa2VA-4B": (language(2048, 36, 11008, 16, 2), VIT, 3.9),
    "Sa2VA-8B": (language(4096, 32, 14336, 32, 8, True), VIT, 8.3),
    "Sa2VA-26B": (language(6144, 48, 16384, 48, 8, True), VIT_6B, 25.8),
    "Sa2VA-InternVL3-2B": (language(1536, 28, 8960, 12, 2), VIT, 2.3),
    "Sa2VA-InternVL3-8B": (language(3584, 28, 18944, 28, 4), VIT, 8.2),
    "Sa2VA-InternVL3-14B": (language(5120, 48, 13824, 40, 8), VIT, 15.4),
}


def config_of(name: str) -> dict[str, Any]:
    llm, vision, _ = SIZES[name]
    template = "internlm2_chat" if llm["model_type"] == "internlm2" else "qwen_chat"
    return {"llm_config": llm, "vision_config": vision, "force_image_size": 448, "ps_version": "v2", "template": template}


@pytest.mark.parametrize("name", SIZES)
def test_the_published_sizes_are_known_and_have_their_parameters(name: str) -> None:
    config = config_of(name)
    assert f"the sizes of {name} (InternVL" in identity(config, "config.json")
    shapes = published_shapes(config)
    assert sum(map(math.prod, shapes.values())) == pytest.approx(SIZES[name][2] * 1e9, rel=0.03)
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
    assert load.identity(checkpoint=tmp_path / "nowhere") is None
    assert load.check_keys(checkpoint=CHECKPOINT) is None
