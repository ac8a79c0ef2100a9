"""The sizes of Qwen2.5-VL and Qwen3-VL as a published ``config.json`` gives them.

``picture_pixels``, the least and most pixels of a picture, is a key of ours: upstream hard-codes its bounds, and ignores the key.
"""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig, Qwen2_5_VLVisionConfig
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig, Qwen3VLVisionConfig

from core.contracts import UserError
from plugins.models.sa2va.backends.qwen import QwenSizes
from plugins.models.sa2va.backends.qwen_pictures import LEAST, MOST

_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_HALVES = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_NO_SIZES = ("architectures", "dtype", "torch_dtype", "auto_map", "model_type", "attn_implementation", "_attn_implementation_autoset")


def qwen2_5_vl(published: dict[str, Any], where: str) -> QwenSizes:
    """Of a whole ``config.json``; ``where`` names it in errors. Raises ``UserError``, and what transformers raises."""
    text, vision = _part(published, "text_config", where), _part(published, "vision_config", where)
    if text.get("use_sliding_window"):
        raise UserError(f"{where}: text_config.use_sliding_window is not supported; published checkpoints have none")
    return _sizes(published, Qwen2_5_VLTextConfig(**text), Qwen2_5_VLVisionConfig(**vision), _CLIP, True, where)


def qwen3_vl(published: dict[str, Any], where: str) -> QwenSizes:
    """The same."""
    text, vision = _part(published, "text_config", where), _part(published, "vision_config", where)
    return _sizes(published, Qwen3VLTextConfig(**text), Qwen3VLVisionConfig(**vision), _HALVES, False, where)


def _part(published: dict[str, Any], part: str, where: str) -> dict[str, Any]:
    if not isinstance(published.get(part), dict):
        raise UserError(f"{where}: key '{part}' is missing; is this a Sa2VA checkpoint?")
    values = {name: value for name, value in published[part].items() if name not in _NO_SIZES}
    if part == "text_config":
        rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
        kind = rope.get("rope_type") or rope.get("type") or "default"
        if kind not in ("default", "mrope"):  # the second is what older files call it
            raise UserError(f"{where}: text_config.rope_scaling is {rope}, which is not supported; published checkpoints have none")
        if values.get("rope_theta") is None and rope.get("rope_theta") is None:
            # transformers' default of one version is not that of another: where a file leaves it out, nobody knows which was meant
            raise UserError(f"{where}: key 'rope_theta' of text_config is missing")
    return values


def _sizes(
    published: dict[str, Any], text: PretrainedConfig, vision: PretrainedConfig, constants: Any, normed: bool, where: str
) -> QwenSizes:
    text.tie_word_embeddings = bool(published.get("tie_word_embeddings", False))
    taken = tuple(getattr(vision, "deepstack_visual_indexes", ()))
    if vision.out_hidden_size != text.hidden_size:
        raise UserError(
            f"{where}: vision_config.out_hidden_size {vision.out_hidden_size} is not text_config.hidden_size {text.hidden_size}"
        )
    if list(taken) != sorted(set(taken)) or any(not 0 <= layer < vision.depth for layer in taken) or len(taken) > text.num_hidden_layers:
        layers = f"of an encoder of {vision.depth} layers, for a language model of {text.num_hidden_layers}"
        raise UserError(f"{where}: vision_config.deepstack_visual_indexes {list(taken)} cannot be layers {layers}")
    least, most = published.get("picture_pixels") or (LEAST, MOST)
    unit = (vision.patch_size * vision.spatial_merge_size) ** 2
    if not unit <= least <= most:
        raise UserError(f"{where}: picture_pixels {[least, most]} must be the least and the most pixels of a picture, at least {unit}")
    return QwenSizes(vision, text, constants, (least, most), len(taken), normed)
