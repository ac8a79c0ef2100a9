"""Names of the published Sa2VA layout and of transformers' own modules, in one table read in both directions.

Left: the key in a published checkpoint. Right: the key(s) in ``Network`` (``vision`` InternVLVisionModel, ``projector``
InternVLMultiModalProjector, ``llm`` Qwen2ForCausalLM, ``text_hidden_fcs``, ``sam2`` Sam2Model). ``{n}`` ``{m}`` are
numbers, ``{p}`` is weight or bias, ``{rest}`` anything. The first row that matches counts. No tensor is transposed.

The tensors of SAM2's video memory have no place in ``Network``; they are kept as they are (``is_memory``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Kind = Literal["same", "split", "row", "copies"]
_GROUND = "grounding_encoder.sam2_model."
_DECODER, _SAM_DECODER = _GROUND + "sam_mask_decoder.", "sam2.mask_decoder."
_PROMPT, _SAM_PROMPT = _GROUND + "sam_prompt_encoder.", "sam2.prompt_encoder."
_TRUNK, _SAM_TRUNK = _GROUND + "image_encoder.trunk.", "sam2.vision_encoder.backbone."
_VIT, _NATIVE_VIT = "vision_model.", "vision."
_LAYER, _NATIVE_LAYER = _VIT + "encoder.layers.{n}.", _NATIVE_VIT + "encoder.layer.{n}."

_TABLE: list[tuple[Kind, str, tuple[str, ...]]] = [
    ("same", _VIT + "embeddings.class_embedding", (_NATIVE_VIT + "embeddings.cls_token",)),
    ("same", _VIT + "embeddings.position_embedding", (_NATIVE_VIT + "embeddings.position_embeddings",)),
    ("same", _VIT + "embeddings.patch_embedding.{p}", (_NATIVE_VIT + "embeddings.patch_embeddings.projection.{p}",)),
    # the three equal parts of dim 0, in this order; heads are contiguous inside each part
    ("split", _LAYER + "attn.qkv.{p}", tuple(f"{_NATIVE_LAYER}attention.{x}_proj.{{p}}" for x in "qkv")),
    ("same", _LAYER + "attn.proj.{p}", (_NATIVE_LAYER + "attention.projection_layer.{p}",)),
    ("same", _LAYER + "attn.q_norm.{p}", (_NATIVE_LAYER + "attention.q_norm.{p}",)),
    ("same", _LAYER + "attn.k_norm.{p}", (_NATIVE_LAYER + "attention.k_norm.{p}",)),
    ("same", _LAYER + "norm1.{p}", (_NATIVE_LAYER + "layernorm_before.{p}",)),
    ("same", _LAYER + "norm2.{p}", (_NATIVE_LAYER + "layernorm_after.{p}",)),
    ("same", _LAYER + "ls{n2}", (_NATIVE_LAYER + "lambda_{n2}",)),
    ("same", _LAYER + "mlp.{rest}", (_NATIVE_LAYER + "mlp.{rest}",)),
    ("same", "language_model.{rest}", ("llm.{rest}",)),
    ("same", "mlp1.0.{p}", ("projector.layer_norm.{p}",)),
    ("same", "mlp1.1.{p}", ("projector.linear_1.{p}",)),
    ("same", "mlp1.3.{p}", ("projector.linear_2.{p}",)),
    ("same", "text_hidden_fcs.{rest}", ("text_hidden_fcs.{rest}",)),
    ("same", _TRUNK + "patch_embed.proj.{p}", (_SAM_TRUNK + "patch_embed.projection.{p}",)),
    ("same", _TRUNK + "blocks.{n}.norm{n2}.{p}", (_SAM_TRUNK + "blocks.{n}.layer_norm{n2}.{p}",)),
    ("same", _TRUNK + "blocks.{n}.mlp.layers.0.{p}", (_SAM_TRUNK + "blocks.{n}.mlp.proj_in.{p}",)),
    ("same", _TRUNK + "blocks.{n}.mlp.layers.1.{p}", (_SAM_TRUNK + "blocks.{n}.mlp.proj_out.{p}",)),
    ("same", _TRUNK + "{rest}", (_SAM_TRUNK + "{rest}",)),  # attn.qkv stays fused here
    ("same", _GROUND + "image_encoder.neck.convs.{n}.conv.{p}", ("sam2.vision_encoder.neck.convs.{n}.{p}",)),
    (
        "copies",
        _PROMPT + "pe_layer.positional_encoding_gaussian_matrix",
        ("sam2.shared_image_embedding.positional_embedding", _SAM_PROMPT + "shared_embedding.positional_embedding"),
    ),
    ("row", _PROMPT + "point_embeddings.{n}.weight", (_SAM_PROMPT + "point_embed.weight",)),
    *[
        ("same", f"{_PROMPT}mask_downscaling.{upstream}.{{p}}", (f"{_SAM_PROMPT}mask_embed.{native}.{{p}}",))
        for upstream, native in enumerate(["conv1", "layer_norm1", None, "conv2", "layer_norm2", None, "conv3"])
        if native
    ],
    ("same", _PROMPT + "no_mask_embed.weight", (_SAM_PROMPT + "no_mask_embed.weight",)),
    ("same", _PROMPT + "not_a_point_embed.weight", (_SAM_PROMPT + "not_a_point_embed.weight",)),
    ("same", _DECODER + "transformer.norm_final_attn.{p}", (_SAM_DECODER + "transformer.layer_norm_final_attn.{p}",)),
    ("same", _DECODER + "transformer.layers.{n}.norm{n2}.{p}", (_SAM_DECODER + "transformer.layers.{n}.layer_norm{n2}.{p}",)),
    ("same", _DECODER + "transformer.layers.{n}.mlp.layers.0.{p}", (_SAM_DECODER + "transformer.layers.{n}.mlp.proj_in.{p}",)),
    ("same", _DECODER + "transformer.layers.{n}.mlp.layers.1.{p}", (_SAM_DECODER + "transformer.layers.{n}.mlp.proj_out.{p}",)),
    ("same", _DECODER + "transformer.{attention}.out_proj.{p}", (_SAM_DECODER + "transformer.{attention}.o_proj.{p}",)),
    ("same", _DECODER + "transformer.{rest}", (_SAM_DECODER + "transformer.{rest}",)),
    ("same", _DECODER + "output_upscaling.0.{p}", (_SAM_DECODER + "upscale_conv1.{p}",)),
    ("same", _DECODER + "output_upscaling.1.{p}", (_SAM_DECODER + "upscale_layer_norm.{p}",)),
    ("same", _DECODER + "output_upscaling.3.{p}", (_SAM_DECODER + "upscale_conv2.{p}",)),
    ("same", _DECODER + "{head}.layers.0.{p}", (_SAM_DECODER + "{head}.proj_in.{p}",)),  # the heads have three layers
    ("same", _DECODER + "{head}.layers.1.{p}", (_SAM_DECODER + "{head}.layers.0.{p}",)),
    ("same", _DECODER + "{head}.layers.2.{p}", (_SAM_DECODER + "{head}.proj_out.{p}",)),
    ("same", _DECODER + "{rest}", (_SAM_DECODER + "{rest}",)),
    ("same", _GROUND + "no_mem_embed", ("sam2.no_memory_embedding",)),
]
_FIELDS = {
    "n": r"\d+",
    "n2": r"\d",
    "p": "weight|bias",
    "rest": r".+",
    "attention": r"(?:layers\.\d+\.)?\w+",
    "head": r"(?:output_hypernetworks_mlps\.\d+|iou_prediction_head|pred_obj_score_head)",
}
_MEMORY = re.compile(
    re.escape(_GROUND)
    + r"(memory_attention\.|memory_encoder\.|maskmem_tpos_enc|no_mem_pos_enc|no_obj_ptr|obj_ptr_proj\.|mask_downsample\.)"
)


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", lambda field: f"(?P<{field[1]}>{_FIELDS[field[1]]})", re.escape(template)))


_FORWARD = [(kind, _pattern(published), natives) for kind, published, natives in _TABLE]
_BACKWARD = [(kind, _pattern(natives[0]), published) for kind, published, natives in _TABLE]


@dataclass(frozen=True)
class Place:
    """Where a published tensor lives: ``split`` over natives along dim 0, ``row`` of one, ``copies`` in all, or the ``same``."""

    kind: Kind
    natives: tuple[str, ...]
    row: int = 0


@lru_cache(maxsize=4096)
def place(published: str) -> Place | None:
    """The place of one published key in ``Network``, or None for a name that does not belong to the layout."""
    for kind, pattern, natives in _FORWARD:
        if match := pattern.fullmatch(published):
            fields = match.groupdict()
            return Place(kind, tuple(native.format(**fields) for native in natives), int(fields["n"]) if kind == "row" else 0)
    return None


def published_names(native: str, rows: int) -> list[str]:
    """The published keys that hold ``native``; ``rows`` is its size along dim 0. Empty for the second or third of a group."""
    for kind, pattern, published in _BACKWARD:
        if match := pattern.fullmatch(native):
            if kind == "row":
                return [published.format(n=row) for row in range(rows)]
            return [published.format(**match.groupdict())]
    return []


def is_memory(published: str) -> bool:
    """Whether the key belongs to SAM2's video memory, which pictures do not use."""
    return _MEMORY.match(published) is not None
