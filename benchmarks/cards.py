"""What an update of a recipe needs with each published checkpoint, and the largest batch on usual cards: python -m benchmarks.cards

The estimate of ``core.check`` (docs/scaling.md); nothing is loaded and no GPU is needed.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from benchmarks.scaling import QWEN, published
from core.engine.memory import GIB, OFFERED, largest_batch, need
from core.recipe import load
from core.registry import Registry
from plugins.models.sa2va.groups import PUBLISHED_GROUPS, Lora
from plugins.models.sa2va.network import Network
from plugins.models.sa2va.published.config import parse_config
from plugins.models.sa2va.published.facts import sizes
from plugins.models.sa2va.training import add_lora

VIT = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
VIT |= {"image_size": 448, "norm_type": "layer_norm", "qkv_bias": True, "qk_normalization": False}
VIT_6B = {"hidden_size": 3200, "num_hidden_layers": 45, "num_attention_heads": 25, "intermediate_size": 12800, "image_size": 448}


def language(width: int, layers: int, inner: int, heads: int, groups: int, internlm2: bool = False) -> dict[str, Any]:
    names = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    made: dict[str, Any] = dict(zip(names, (width, layers, inner, heads, groups), strict=True))
    if internlm2:
        return made | {"model_type": "internlm2", "architectures": ["InternLM2ForCausalLM"], "bias": False, "vocab_size": 92558}
    return made | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 151679}


#: Name -> language model and picture encoder.
PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Sa2VA-1B": (language(896, 24, 4864, 14, 2), VIT),
    "Sa2VA-InternVL3-2B": (language(1536, 28, 8960, 12, 2), VIT),
    "Sa2VA-4B": (language(2048, 36, 11008, 16, 2), VIT),
    "Sa2VA-InternVL3-8B": (language(3584, 28, 18944, 28, 4), VIT),
    "Sa2VA-8B": (language(4096, 32, 14336, 32, 8, True), VIT),
    "Sa2VA-InternVL3-14B": (language(5120, 48, 13824, 40, 8), VIT),
    "Sa2VA-26B": (language(6144, 48, 16384, 48, 8, True), VIT_6B),
}
CARDS = (24, 48, 80)  # GB


def qwen_vl(width: int, layers: int, inner: int, heads: int, groups: int, third: bool) -> dict[str, Any]:
    """A ``config.json`` of Sa2VA on Qwen3-VL, or Qwen2.5-VL; the vocabulary is its tokenizer's with Sa2VA's five tokens."""
    text = language(width, layers, inner, heads, groups) | {"rope_theta": 5e6 if third else 1e6}
    text |= {"model_type": "qwen3_vl_text" if third else "qwen2_5_vl_text", "vocab_size": 151674 if third else 151670}
    text |= {"rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20] if third else [16, 24, 24]}}
    del text["architectures"]
    if third:
        text |= {"head_dim": 128}
        vision = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17], "patch_size": 16}
    else:
        vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "fullatt_block_indexes": [7, 15, 23, 31], "patch_size": 14}
    vision |= {"num_heads": 16, "out_hidden_size": width}
    return {
        "architectures": ["Sa2VAChatModelQwen"],
        "model_type": "sa2va_chat",
        "template": "qwen_chat",
        "text_config": text,
        "vision_config": vision,
    }


ON_QWEN_VL: dict[str, dict[str, Any]] = {
    "Sa2VA-Qwen3-VL-2B": qwen_vl(2048, 28, 6144, 16, 8, True),
    "Sa2VA-Qwen2_5-VL-3B": qwen_vl(2048, 36, 11008, 16, 2, False),
    "Sa2VA-Qwen3-VL-4B": qwen_vl(2560, 36, 9728, 32, 8, True),
    "Sa2VA-Qwen2_5-VL-7B": qwen_vl(3584, 28, 18944, 28, 4, False),
}


def config_of(name: str) -> dict[str, Any]:
    """The ``config.json`` of a published checkpoint; "1B" and "4B" are the two that are measured."""
    if name in QWEN:
        return published(name)
    if name in ON_QWEN_VL:
        return ON_QWEN_VL[name]
    llm, vision = PUBLISHED[name]
    template = "internlm2_chat" if llm["model_type"] == "internlm2" else "qwen_chat"
    return {"llm_config": llm, "vision_config": vision, "force_image_size": 448, "ps_version": "v2", "template": template}


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/dual_loop_8gpu.yaml")
    parser.add_argument("--checkpoint", choices=[*PUBLISHED, *ON_QWEN_VL], action="append", help="only this one; again for more")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the recipe, e.g. launch.strategy=fsdp2")
    args = parser.parse_args(given)
    recipe, registry = load(args.recipe, args.overrides), Registry()
    values = recipe.values["model"]
    print(f"{'':22}{'parameters':>12}{'trained':>9}{'fixed GiB':>11}{'update GiB':>12}" + "".join(f"{f'{card} GB':>8}" for card in CARDS))
    for name in args.checkpoint or [*PUBLISHED, *ON_QWEN_VL]:
        with torch.device("meta"):
            network = Network(parse_config(config_of(name)))
            add_lora(network, Lora(**values["lora"]))
        facts = sizes(network, list(PUBLISHED_GROUPS), values["dtype"], values.get("max_tiles", 12))
        needed = need(recipe, registry, facts)
        fixed = needed.counted - needed.parts["a micro-batch"]
        fits = [largest_batch(recipe, registry, facts, [], card * OFFERED * GIB, True) for card in CARDS]
        row = f"{name:22}{facts['parameters'] / 1e9:10.1f} G{sum(facts['trained'].values()) / 1e6:7.0f} M"
        print(row + f"{fixed / GIB:11.1f}{needed.counted / GIB:12.1f}" + "".join(f"{batch or '-':>8}" for batch in fits), flush=True)


if __name__ == "__main__":
    main()
