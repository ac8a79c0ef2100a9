"""The ``config.json`` of a small model."""

from __future__ import annotations

from typing import Any

from plugins.models.sa2va.sizes import Sizes


def published_config(sizes: Sizes, vocabulary: int, eos: int, template: str) -> dict[str, Any]:
    """A ``config.json`` in upstream's own layout, with the SAM2 sizes that upstream has no place for."""
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
            "eos_token_id": eos,
            "hidden_size": sizes.llm_width,
            "intermediate_size": 2 * sizes.llm_width,
            "num_hidden_layers": sizes.llm_layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "initializer_range": sizes.init_range,
            "max_position_embeddings": 4096,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "vocab_size": vocabulary,
        },
        "max_dynamic_patch": 1,
        "min_dynamic_patch": 1,
        "pad2square": False,
        "ps_version": "v2",
        "sam2_config": {
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
        },
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
