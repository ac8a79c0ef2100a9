"""Reads a published ``config.json`` as written and makes the configurations of transformers' own modules from it.

``llm_config`` and ``vision_config`` are differences against upstream's class defaults, so those defaults stand here.
SAM2's sizes are not part of a published config at all: without ``sam2_config`` (a key of ours, which upstream ignores)
they are SAM 2.0 Hiera-L. Source: bytedance/Sa2VA, ``configuration_sa2va_chat.py`` and ``configuration_intern_vit.py``.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import InternVLConfig, InternVLVisionConfig, Qwen2Config, Sam2Config, Sam2HieraDetConfig
from transformers.models.sam2.configuration_sam2 import Sam2MaskDecoderConfig, Sam2PromptEncoderConfig, Sam2VisionConfig

from core.contracts import UserError

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
_SAM2_HIERA_L: dict[str, Any] = {
    "image_size": 1024,
    "hidden_size": 256,
    "hiera": {
        "embed_dim": 144,
        "num_heads": 2,
        "stages": [2, 6, 36, 4],
        "global_att_blocks": [23, 33, 43],
        "window_pos_embed_bkg_spatial_size": [7, 7],
        "window_spec": [8, 4, 16, 8],
    },
    "mask_decoder": {"mlp_dim": 2048, "iou_head_hidden_dim": 256},
}
_TOP_DEFAULTS: dict[str, Any] = {
    "select_layer": -1,
    "downsample_ratio": 0.5,
    "ps_version": "v1",
    "template": None,
    "force_image_size": None,
}


@dataclass(frozen=True)
class Sa2vaConfig:
    """The sizes that matter here, and the configurations of the parts."""

    published: dict[str, Any]  # config.json as it was read
    vision: InternVLVisionConfig
    llm: Qwen2Config
    sam2: Sam2Config
    tile: int  # side of a tile in pixels
    grid: int  # side of the grid of image tokens of a tile
    sam_size: int  # side of the SAM2 picture in pixels
    template: str  # name of the turn format
    pixel_shuffle: str  # "v1" or "v2"
    downsample: float

    @property
    def mask_width(self) -> int:
        """Width of the mask decoder, which the [SEG] embedding has too."""
        return (self.published.get("sam2_config") or _SAM2_HIERA_L)["hidden_size"]

    @property
    def mask_size(self) -> int:
        """Side of the low-resolution mask."""
        return self.sam_size // 4

    def projector(self) -> InternVLConfig:
        """What ``InternVLMultiModalProjector`` wants to be built from."""
        vision, llm = copy.deepcopy(self.vision), copy.deepcopy(self.llm)  # InternVLConfig writes into its parts
        return InternVLConfig(vision_config=vision, text_config=llm, downsample_ratio=self.downsample, projector_hidden_act="gelu")


def read_config(folder: Path) -> Sa2vaConfig:
    """Reads ``folder/config.json``; raises ``UserError`` if it is missing, no JSON, or another architecture."""
    path = folder / "config.json"
    try:
        published = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; a checkpoint folder in the published Sa2VA layout has config.json and *.safetensors") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON ({error.msg})") from None
    return parse_config(published, str(path))


def parse_config(published: dict[str, Any], where: str = "config") -> Sa2vaConfig:
    """Makes the parts' configurations. ``where`` names the source in errors."""
    try:
        return _parse(published, where)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, StrictDataclassError) as error:  # the last is transformers' own
        what = f"key {error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise UserError(f"{where}: not the configuration of a Sa2VA checkpoint: {what}") from error


def _parse(published: dict[str, Any], where: str) -> Sa2vaConfig:
    if not isinstance(published, dict):
        raise TypeError("it is no JSON object")
    for key in ("llm_config", "vision_config"):
        if not isinstance(published.get(key), dict):
            raise UserError(f"{where}: key '{key}' is missing; is this a Sa2VA checkpoint?")
    kind = published["llm_config"].get("model_type", "qwen2")
    named = published["llm_config"].get("architectures") or "Qwen2ForCausalLM"
    architecture = named if isinstance(named, str) else named[0]
    if kind != "qwen2" or architecture != "Qwen2ForCausalLM":
        raise UserError(f"{where}: the language model is {architecture} ({kind}); only Qwen2 and Qwen2.5 (Qwen2ForCausalLM) are supported")
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
    return Sa2vaConfig(
        published=published,
        vision=InternVLVisionConfig(
            **{name: vision[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")},
            **{name: vision[name] for name in ("num_channels", "norm_type", "layer_norm_eps", "hidden_act", "initializer_range")},
            image_size=vision["image_size"],
            patch_size=patch,
            attention_bias=vision["qkv_bias"],
            use_qk_norm=vision["qk_normalization"],
        ),
        llm=_llm(published["llm_config"]),
        sam2=_sam2(published.get("sam2_config") or _SAM2_HIERA_L),
        tile=tile,
        grid=int(tile // patch * downsample),
        sam_size=(published.get("sam2_config") or _SAM2_HIERA_L)["image_size"],
        template=top["template"] or "phi3_chat",
        pixel_shuffle=top["ps_version"],
        downsample=downsample,
    )


def _llm(diff: dict[str, Any]) -> Qwen2Config:
    names = {
        name for name in diff if name not in ("_attn_implementation_autoset", "architectures", "torch_dtype", "auto_map", "model_type")
    }
    values = {name: diff[name] for name in names}
    if "rope_theta" in values:  # flat in a published config
        values["rope_parameters"] = {"rope_type": "default", "rope_theta": values.pop("rope_theta")}
    if scaling := values.pop("rope_scaling", None):
        raise UserError(f"config.json: llm_config.rope_scaling is {scaling}; only language models without it are supported")
    return Qwen2Config(**values)


def _sam2(sizes: dict[str, Any]) -> Sam2Config:
    hiera, decoder, image, width = sizes["hiera"], sizes["mask_decoder"], sizes["image_size"], sizes["hidden_size"]
    channels = [hiera["embed_dim"] * 2**stage for stage in range(4)]
    backbone = Sam2HieraDetConfig(
        hidden_size=hiera["embed_dim"],
        num_attention_heads=hiera["num_heads"],
        image_size=[image, image],
        blocks_per_stage=hiera["stages"],
        embed_dim_per_stage=channels,
        num_attention_heads_per_stage=[hiera["num_heads"] * 2**stage for stage in range(4)],
        window_size_per_stage=hiera["window_spec"],
        global_attention_blocks=hiera["global_att_blocks"],
        window_positional_embedding_background_size=hiera["window_pos_embed_bkg_spatial_size"],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=channels[::-1],
        backbone_feature_sizes=[[image // stride] * 2 for stride in (4, 8, 16)],
        fpn_hidden_size=width,
    )
    prompt = Sam2PromptEncoderConfig(hidden_size=width, image_size=image)
    masks = Sam2MaskDecoderConfig(
        hidden_size=width,
        mlp_dim=decoder["mlp_dim"],
        iou_head_hidden_dim=decoder["iou_head_hidden_dim"],
        num_attention_heads=decoder.get("num_heads", 8),
    )
    return Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=masks)
