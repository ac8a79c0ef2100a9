"""The tensors of SAM 2.0's video memory: pictures do not use them, but a complete checkpoint has them.

Names and sizes: bytedance/Sa2VA, which is SAM 2.0, without SAM 2.1's additional tensors.
"""

from __future__ import annotations

from typing import Any

_PREFIX = "grounding_encoder.sam2_model."
_HIERA_L: dict[str, int] = {"num_layers": 4, "dim_feedforward": 2048, "mem_dim": 64}
_FRAMES = 7  # whose memories have a place in time


def memory_shapes(published: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Published key -> shape of each memory tensor that a checkpoint with this ``config.json`` must have.

    Without ``sam2_config`` it is SAM 2.0 Hiera-L; a ``sam2_config`` without ``memory``, or with null, has none.
    """
    sam2 = published.get("sam2_config")
    memory = _HIERA_L if not sam2 else sam2.get("memory")
    if not memory:
        return {}
    width, inner, narrow = (sam2 or {"hidden_size": 256})["hidden_size"], memory["dim_feedforward"], memory["mem_dim"]
    shapes: dict[str, tuple[int, ...]] = {"no_mem_pos_enc": (1, 1, width), "no_obj_ptr": (1, width)}
    shapes["maskmem_tpos_enc"] = (_FRAMES, 1, 1, narrow)

    def layer(name: str, *weight: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = weight, weight[:1]

    layer("mask_downsample", 1, 1, 4, 4)
    for i in range(3):
        layer(f"obj_ptr_proj.layers.{i}", width, width)
    for i in range(memory["num_layers"]):
        block = f"memory_attention.layers.{i}"
        for attention, source in (("self_attn", width), ("cross_attn_image", narrow)):
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                layer(f"{block}.{attention}.{part}", width, source if part in ("k_proj", "v_proj") else width)
        layer(f"{block}.linear1", inner, width)
        layer(f"{block}.linear2", width, inner)
        for norm in ("norm1", "norm2", "norm3"):
            layer(f"{block}.{norm}", width)
    layer("memory_attention.norm", width)
    encoder, channels = "memory_encoder.mask_downsampler.encoder", [1, 4, 16, 64, 256]
    for i in range(4):
        layer(f"{encoder}.{3 * i}", channels[i + 1], channels[i], 3, 3)
        layer(f"{encoder}.{3 * i + 1}", channels[i + 1])
    layer(f"{encoder}.12", width, channels[-1], 1, 1)
    for i in range(2):
        block = f"memory_encoder.fuser.layers.{i}"
        layer(f"{block}.dwconv", width, 1, 7, 7)
        layer(f"{block}.norm", width)
        layer(f"{block}.pwconv1", 4 * width, width)
        layer(f"{block}.pwconv2", width, 4 * width)
        shapes[f"{block}.g_weight"] = (width,)
    layer("memory_encoder.pix_feat_proj", width, width, 1, 1)
    layer("memory_encoder.out_proj", narrow, width, 1, 1)
    return {_PREFIX + name: shape for name, shape in shapes.items()}
