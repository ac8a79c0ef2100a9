"""The tensors of SAM2's video memory: a complete checkpoint has them. ``tracking`` uses them; pictures do not.

Names and sizes: bytedance/Sa2VA, which is SAM 2.0; facebookresearch/sam2 for the tensors that SAM 2.1 has besides.
"""

from __future__ import annotations

import re
from typing import Any

from plugins.models.sa2va.tracking import FRAMES

_PREFIX = "grounding_encoder.sam2_model."
#: What SAM 2.1 has besides: an embedding for hidden objects, and when a pointer's frame was. Everything else has SAM 2.0's names and sizes.
SAM21_ONLY = tuple(_PREFIX + name for name in ("no_obj_embed_spatial", "obj_ptr_tpos_proj.bias", "obj_ptr_tpos_proj.weight"))
_HIERA_L: dict[str, int] = {"num_layers": 4, "dim_feedforward": 2048, "mem_dim": 64}


def memory_sizes(published: dict[str, Any]) -> dict[str, Any] | None:
    """Sizes of the memory of a checkpoint with this ``config.json``.

    Without ``sam2_config`` it is SAM 2's Hiera-L; a ``sam2_config`` without ``memory``, or with null, has none.
    """
    sam2 = published.get("sam2_config")
    return (sam2.get("memory") or None) if sam2 else _HIERA_L


def memory_shapes(published: dict[str, Any], sam21: bool = False) -> dict[str, tuple[int, ...]]:
    """Published key -> shape of each memory tensor that a checkpoint with this ``config.json``, and SAM 2.1 or not, must have."""
    memory = memory_sizes(published)
    if memory is None:
        return {}
    width = (published.get("sam2_config") or {"hidden_size": 256})["hidden_size"]
    inner, narrow = memory["dim_feedforward"], memory["mem_dim"]
    shapes: dict[str, tuple[int, ...]] = {"no_mem_pos_enc": (1, 1, width), "no_obj_ptr": (1, width)}
    shapes["maskmem_tpos_enc"] = (FRAMES, 1, 1, narrow)

    def layer(name: str, *weight: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = weight, weight[:1]

    layer("mask_downsample", 1, 1, 4, 4)
    if sam21:
        shapes["no_obj_embed_spatial"] = (1, narrow)
        layer("obj_ptr_tpos_proj", narrow, width)
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


_NATIVE = [  # (published, name in transformers' Sam2VideoModel); the first that fits
    (r"maskmem_tpos_enc", "memory_temporal_positional_encoding"),
    (r"no_obj_ptr", "no_object_pointer"),
    (r"no_obj_embed_spatial", "occlusion_spatial_embedding_parameter"),
    (r"obj_ptr_tpos_proj\.(\w+)", r"temporal_positional_encoding_projection_layer.\1"),
    (r"(mask_downsample\.\w+)", r"\1"),
    (r"obj_ptr_proj\.layers\.0\.(\w+)", r"object_pointer_proj.proj_in.\1"),
    (r"obj_ptr_proj\.layers\.1\.(\w+)", r"object_pointer_proj.layers.0.\1"),
    (r"obj_ptr_proj\.layers\.2\.(\w+)", r"object_pointer_proj.proj_out.\1"),
    (r"memory_attention\.norm\.(\w+)", r"memory_attention.layer_norm.\1"),
    (r"(memory_attention\.layers\.\d+)\.norm(\d\.\w+)", r"\1.layer_norm\2"),
    (r"(memory_attention\..+)\.out_proj\.(\w+)", r"\1.o_proj.\2"),
    (r"(memory_attention\..+)", r"\1"),
    (r"memory_encoder\.mask_downsampler\.encoder\.12\.(\w+)", r"memory_encoder.mask_downsampler.final_conv.\1"),
    (r"memory_encoder\.fuser\.(layers\.\d+)\.dwconv\.(\w+)", r"memory_encoder.memory_fuser.\1.depthwise_conv.\2"),
    (r"memory_encoder\.fuser\.(layers\.\d+)\.norm\.(\w+)", r"memory_encoder.memory_fuser.\1.layer_norm.\2"),
    (r"memory_encoder\.fuser\.(layers\.\d+)\.pwconv(\d\.\w+)", r"memory_encoder.memory_fuser.\1.pointwise_conv\2"),
    (r"memory_encoder\.fuser\.(layers\.\d+)\.g_weight", r"memory_encoder.memory_fuser.\1.scale"),
    (r"memory_encoder\.pix_feat_proj\.(\w+)", r"memory_encoder.feature_projection.\1"),
    (r"memory_encoder\.out_proj\.(\w+)", r"memory_encoder.projection.\1"),
]
_DOWNSAMPLER = re.compile(r"memory_encoder\.mask_downsampler\.encoder\.(\d+)\.(\w+)")


def native_name(published: str) -> str | None:
    """The name of a memory tensor in transformers' ``Sam2VideoModel``; None for any other key, and for what nothing uses."""
    if not published.startswith(_PREFIX):
        return None
    name = published.removeprefix(_PREFIX)
    for pattern, native in _NATIVE:
        if match := re.fullmatch(pattern, name):
            return match.expand(native)
    if match := _DOWNSAMPLER.fullmatch(name):  # convolution, norm, activation, four times
        layer, part = divmod(int(match[1]), 3)
        return f"memory_encoder.mask_downsampler.layers.{layer}.{('conv', 'layer_norm')[part]}.{match[2]}"
    return None
