"""The ``config.json`` of a small model."""

from __future__ import annotations

from typing import Any

from core.contracts import UserError
from plugins.models.sa2va.sizes import NewFamily, Sizes


def published_config(sizes: Sizes, vocabulary: int, eos: int, template: str, family: NewFamily = "internvl") -> dict[str, Any]:
    """A ``config.json`` in upstream's own layout, with the sizes that upstream has no place for: SAM2's, and of Qwen-VL's pictures.

    Raises ``UserError`` for sizes that Qwen-VL's heads cannot have.
    """
    if family == "internvl":
        return _on_internvl(sizes, vocabulary, eos, template)
    return _on_qwen_vl(sizes, vocabulary, eos, template, family)


def _on_internvl(sizes: Sizes, vocabulary: int, eos: int, template: str) -> dict[str, Any]:
    return {
        "architectures": ["Sa2VAChatModel"],
        "model_type": "sa2va_chat",
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": sizes.tile,
        "hidden_size": sizes.llm_width,
        "llm_config": {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            **_language(sizes, eos),
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "vocab_size": vocabulary,
        },
        "max_dynamic_patch": 1,
        "min_dynamic_patch": 1,
        "pad2square": False,
        "ps_version": "v2",
        "sam2_config": _sam2(sizes),
        "select_layer": -1,
        "template": template,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_thumbnail": True,
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "model_type": "intern_vit_6b",
            "hidden_size": sizes.vision_width,
            "image_size": sizes.tile,
            "patch_size": sizes.patch,
            "num_hidden_layers": sizes.vision_layers,
            "num_attention_heads": 4,
            "intermediate_size": 4 * sizes.vision_width,
            "initializer_range": sizes.init_range,
            "layer_norm_eps": 1e-6,
            "norm_type": "layer_norm",
            "qk_normalization": False,
            "qkv_bias": True,
        },
    }


def _on_qwen_vl(sizes: Sizes, vocabulary: int, eos: int, template: str, family: NewFamily) -> dict[str, Any]:
    """Heads, DeepStack and windows in the proportions of the published ones; pictures of ``tile`` x ``tile`` pixels, or of as many."""
    if sizes.vision_width % 16 or sizes.llm_width % 8:
        have = f"they are {sizes.vision_width} and {sizes.llm_width}"
        raise UserError(f"model.sizes: on Qwen-VL vision_width must be a multiple of 16 and llm_width one of 8; {have}")
    newer, turns = family == "qwen3_vl", sizes.llm_width // 8  # pairs of numbers of a head that M-RoPE turns
    side = turns * (5 if newer else 6) // 16  # of them by the row, and by the column
    rope: dict[str, Any] = {"rope_type": "default", "mrope_section": [turns - 2 * side, side, side]}
    own: dict[str, Any] = {
        "hidden_act": "silu",
        "intermediate_size": 8 * sizes.vision_width // 3,
        "fullatt_block_indexes": [sizes.vision_layers - 1],
        "window_size": 8 * sizes.patch,
    }
    if newer:
        rope["mrope_interleaved"] = True
        own = {
            "hidden_act": "gelu_pytorch_tanh",
            "intermediate_size": 4 * sizes.vision_width,
            "deepstack_visual_indexes": list(range(min(sizes.vision_layers - 1, sizes.llm_layers, 3))),
            "num_position_embeddings": (sizes.tile // sizes.patch) ** 2,
        }
    return {
        "architectures": ["Sa2VAChatModelQwen"],
        "model_type": "sa2va_chat",
        "picture_pixels": [sizes.tile**2] * 2,
        "sam2_config": _sam2(sizes),
        "template": template,
        "text_config": {
            "model_type": f"{family}_text",
            "bos_token_id": None,  # transformers' default is not in a small vocabulary
            **_language(sizes, eos),
            "head_dim": sizes.llm_width // 4,
            "rope_scaling": rope,
            "rope_theta": 10000.0,
            "vocab_size": vocabulary,
        },
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "vision_config": {
            "model_type": family,
            "depth": sizes.vision_layers,
            "hidden_size": sizes.vision_width,
            "in_channels": 3,
            "initializer_range": sizes.init_range,
            "num_heads": 4,
            "out_hidden_size": sizes.llm_width,
            "patch_size": sizes.patch,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            **own,
        },
    }


def _language(sizes: Sizes, eos: int) -> dict[str, Any]:
    """What the language models of all families have alike."""
    return {
        "eos_token_id": eos,
        "hidden_size": sizes.llm_width,
        "intermediate_size": 2 * sizes.llm_width,
        "num_hidden_layers": sizes.llm_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": sizes.init_range,
        "max_position_embeddings": 4096,
    }


def _sam2(sizes: Sizes) -> dict[str, Any]:
    return {
        "image_size": sizes.sam_size,
        "hidden_size": sizes.sam_width,
        "hiera": {
            "embed_dim": sizes.hiera_width,
            "num_heads": 2,
            "stages": sizes.hiera_stages,
            "global_att_blocks": sizes.hiera_global,
            "window_pos_embed_bkg_spatial_size": [7, 7],
            "window_spec": sizes.hiera_windows,
        },
        "mask_decoder": {"mlp_dim": 2 * sizes.sam_width, "iou_head_hidden_dim": sizes.sam_width},
    }
