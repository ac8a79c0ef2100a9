"""Names of the published Sa2VA layout and of transformers' own modules, as data; ``keys`` reads it in both directions.

Left: the key in a published checkpoint. Right: the key(s) in ``Network``. ``{n}`` ``{m}`` are numbers, ``{p}`` is weight or
bias, ``{rest}`` anything. The first row that matches counts. No tensor is transposed.
``split``: equal parts along dim 0. ``grouped``: for each head of keys its heads of queries, then itself, then its head of values.
"""

from __future__ import annotations

from typing import Literal

Kind = Literal["same", "split", "grouped", "row", "copies"]
Rows = list[tuple[Kind, str, tuple[str, ...]]]
GROUND = "grounding_encoder.sam2_model."
_DECODER, _SAM_DECODER = GROUND + "sam_mask_decoder.", "sam2.mask_decoder."
_PROMPT, _SAM_PROMPT = GROUND + "sam_prompt_encoder.", "sam2.prompt_encoder."
_TRUNK, _SAM_TRUNK = GROUND + "image_encoder.trunk.", "sam2.vision_encoder.backbone."
_VIT, _NATIVE_VIT = "vision_model.", "vision."
_LAYER, _NATIVE_LAYER = _VIT + "encoder.layers.{n}.", _NATIVE_VIT + "encoder.layer.{n}."

#: Of InternVL's parts but the language model.
INTERNVL: Rows = [
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
    ("same", "mlp1.0.{p}", ("projector.layer_norm.{p}",)),
    ("same", "mlp1.1.{p}", ("projector.linear_1.{p}",)),
    ("same", "mlp1.3.{p}", ("projector.linear_2.{p}",)),
]
#: Of its language model: Qwen2, whose names are transformers' own.
QWEN2: Rows = [("same", "language_model.{rest}", ("llm.{rest}",))]
_INTERNLM2, _LLAMA = "language_model.model.layers.{n}.", "llm.model.layers.{n}."
#: Or InternLM2, as a Llama.
INTERNLM2: Rows = [
    ("same", "language_model.model.tok_embeddings.{p}", ("llm.model.embed_tokens.{p}",)),
    ("same", "language_model.output.{p}", ("llm.lm_head.{p}",)),
    ("same", "language_model.model.norm.{p}", ("llm.model.norm.{p}",)),
    ("grouped", _INTERNLM2 + "attention.wqkv.{p}", tuple(f"{_LLAMA}self_attn.{x}_proj.{{p}}" for x in "qkv")),
    *[
        ("same", f"{_INTERNLM2}{upstream}.{{p}}", (f"{_LLAMA}{native}.{{p}}",))
        for upstream, native in {
            "attention.wo": "self_attn.o_proj",
            "attention_norm": "input_layernorm",
            "ffn_norm": "post_attention_layernorm",
            "feed_forward.w1": "mlp.gate_proj",
            "feed_forward.w3": "mlp.up_proj",
            "feed_forward.w2": "mlp.down_proj",
        }.items()
    ],
]
#: Of Qwen2.5-VL and Qwen3-VL, whose names are transformers' own; the merger is the projector here.
QWEN_VL: Rows = [
    ("same", "model.model.visual.merger.{rest}", ("projector.{rest}",)),
    ("same", "model.model.visual.{rest}", ("vision.{rest}",)),
    ("same", "model.model.language_model.{rest}", ("llm.model.{rest}",)),
    ("same", "model.lm_head.{rest}", ("llm.lm_head.{rest}",)),
]
#: Of what is Sa2VA's own.
SEGMENTER: Rows = [
    ("same", "text_hidden_fcs.{rest}", ("text_hidden_fcs.{rest}",)),
    ("same", _TRUNK + "patch_embed.proj.{p}", (_SAM_TRUNK + "patch_embed.projection.{p}",)),
    ("same", _TRUNK + "blocks.{n}.norm{n2}.{p}", (_SAM_TRUNK + "blocks.{n}.layer_norm{n2}.{p}",)),
    ("same", _TRUNK + "blocks.{n}.mlp.layers.0.{p}", (_SAM_TRUNK + "blocks.{n}.mlp.proj_in.{p}",)),
    ("same", _TRUNK + "blocks.{n}.mlp.layers.1.{p}", (_SAM_TRUNK + "blocks.{n}.mlp.proj_out.{p}",)),
    ("same", _TRUNK + "{rest}", (_SAM_TRUNK + "{rest}",)),  # attn.qkv stays fused here
    ("same", GROUND + "image_encoder.neck.convs.{n}.conv.{p}", ("sam2.vision_encoder.neck.convs.{n}.{p}",)),
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
    ("same", GROUND + "no_mem_embed", ("sam2.no_memory_embedding",)),
]
