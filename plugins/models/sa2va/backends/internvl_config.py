"""The sizes of InternVL as a published ``config.json`` gives them.

``llm_config`` and ``vision_config`` are differences against upstream's class defaults, so those defaults stand here.
Source: bytedance/Sa2VA, ``configuration_sa2va_chat.py`` and ``configuration_intern_vit.py``.
"""

from __future__ import annotations

from typing import Any

from transformers import InternVLVisionConfig, LlamaConfig, Qwen2Config

from core.contracts import UserError
from plugins.models.sa2va.backends.internvl import InternVLSizes

_VISION_DEFAULTS: dict[str, Any] = {  # upstream's InternVisionConfig describes InternViT-6B
    "hidden_size": 3200,
    "num_hidden_layers": 48,
    "num_attention_heads": 25,
    "intermediate_size": 12800,
    "image_size": 224,
    "patch_size": 14,
    "num_channels": 3,
    "qkv_bias": False,
    "qk_normalization": True,
    "norm_type": "rms_norm",
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
    "initializer_range": 0.02,
}
_TOP_DEFAULTS: dict[str, Any] = {"select_layer": -1, "downsample_ratio": 0.5, "ps_version": "v1", "force_image_size": None}


def internvl(published: dict[str, Any], where: str) -> InternVLSizes:
    """Of a whole ``config.json``; ``where`` names it in errors. Raises ``UserError``, and what transformers raises."""
    for key in ("llm_config", "vision_config"):
        if not isinstance(published.get(key), dict):
            raise UserError(f"{where}: key '{key}' is missing; is this a Sa2VA checkpoint?")
    top = _TOP_DEFAULTS | published
    if top["select_layer"] != -1:
        raise UserError(f"{where}: select_layer {top['select_layer']} is not supported; published Sa2VA checkpoints use -1")
    if top["ps_version"] not in ("v1", "v2"):
        raise UserError(f"{where}: ps_version {top['ps_version']!r} is not supported; known are v1 and v2")
    vision = _VISION_DEFAULTS | published["vision_config"]
    tile, patch, downsample = top["force_image_size"] or vision["image_size"], vision["patch_size"], top["downsample_ratio"]
    if not 0 < downsample <= 1 or (1 / downsample) % 1 or tile % patch or (tile // patch * downsample) % 1:
        what = f"a picture of {tile} pixels in patches of {patch} has no whole grid at downsample_ratio {downsample}"
        raise UserError(f"{where}: {what}; see force_image_size, image_size and patch_size")
    llm, longest = language_model(published["llm_config"], where)
    return InternVLSizes(
        vision=InternVLVisionConfig(
            **{name: vision[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")},
            **{name: vision[name] for name in ("num_channels", "norm_type", "layer_norm_eps", "hidden_act", "initializer_range")},
            image_size=vision["image_size"],
            patch_size=patch,
            attention_bias=vision["qkv_bias"],
            use_qk_norm=vision["qk_normalization"],
        ),
        llm=llm,
        longest=longest,
        tile=tile,
        grid=int(tile // patch * downsample),
        pixel_shuffle=top["ps_version"],
        downsample=downsample,
    )


#: Of upstream's InternLM2Config, and what Llama's is called.
_INTERNLM2_DEFAULTS: dict[str, Any] = {
    "vocab_size": 103168,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "bias": True,
    "rope_theta": 10000,
}
_NO_SIZES = ("_attn_implementation_autoset", "architectures", "torch_dtype", "auto_map", "model_type", "attn_implementation")


def language_model(diff: dict[str, Any], where: str) -> tuple[Qwen2Config | LlamaConfig, int | None]:
    """Its configuration, and how long a sequence may be where dynamic scaling would change longer ones. Raises ``UserError``."""
    internlm2 = diff.get("model_type") == "internlm2"
    values = (_INTERNLM2_DEFAULTS if internlm2 else {}) | {name: value for name, value in diff.items() if name not in _NO_SIZES}
    rope = (values.pop("rope_parameters", None) or {}) | (values.pop("rope_scaling", None) or {})
    scaling = rope.get("rope_type") or rope.get("type") or "default"
    if scaling not in ("default", "dynamic"):
        known = "known are dynamic, which changes nothing up to max_position_embeddings, and none"
        raise UserError(f"{where}: llm_config.rope_scaling is {rope}, which is not supported; {known}")
    if (theta := values.pop("rope_theta", rope.get("rope_theta"))) is not None:  # flat in a published config
        values["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    if internlm2:
        values["attention_bias"] = values.pop("bias")
    config = LlamaConfig(**values) if internlm2 else Qwen2Config(**values)
    return config, config.max_position_embeddings if scaling == "dynamic" else None
