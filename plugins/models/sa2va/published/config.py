"""Reads a published ``config.json`` as written and makes the configurations of transformers' own modules from it.

SAM2's sizes are not part of a published config at all: without ``sam2_config`` (a key of ours, which upstream ignores)
they are SAM 2's Hiera-L. Whether it is SAM 2.0 or 2.1 only the tensors say. What belongs to the language-vision backend, the
backend's own file reads.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import Sam2Config, Sam2HieraDetConfig
from transformers.models.sam2.configuration_sam2 import Sam2MaskDecoderConfig, Sam2PromptEncoderConfig, Sam2VisionConfig

from core.contracts import UserError
from plugins.models.sa2va.network import Sa2vaConfig
from plugins.models.sa2va.published.families import read_family
from plugins.models.sa2va.published.folder import keys_of, same_values
from plugins.models.sa2va.published.memory import SAM21_ONLY, memory_sizes
from plugins.models.sa2va.published.other_folders import is_pointer, pointer_sentence, told
from plugins.models.sa2va.published.tables import GROUND
from plugins.models.sa2va.video import DecoderVersion

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


def read_config(folder: Path, decoder: DecoderVersion = "auto") -> Sa2vaConfig:
    """Reads ``folder/config.json``; raises ``UserError`` if it is missing, no JSON, or another architecture, or not of SAM2's version.

    Where it ties the output layer to the embeddings and the folder holds an output layer of its own, that one is kept: a warning says so.
    """
    path = folder / "config.json"
    if not path.is_file() and folder.is_dir() and (sentence := told(folder)):
        raise UserError(sentence)
    if is_pointer(path):
        raise UserError(pointer_sentence(path))
    try:
        published = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; a checkpoint folder in the published Sa2VA layout has config.json and *.safetensors") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON ({error.msg})") from None
    parse_config(published, str(path))  # before the weights are looked at
    config = parse_config(published, str(path), _sam21(folder, decoder))
    llm = config.backend.llm
    if llm.tie_word_embeddings and same_values(folder, config.layout.embeddings, config.layout.head) is False:
        # as transformers 5 does it: what is stored counts, and nothing is tied
        warnings.warn(
            f"{path}: tie_word_embeddings is true, but the folder stores another output layer; the stored one is kept", stacklevel=2
        )
        llm.tie_word_embeddings = False
    return config


def _sam21(folder: Path, decoder: DecoderVersion) -> bool:
    """Whether the folder's SAM2 is SAM 2.1, by its tensors. Raises ``UserError`` where ``decoder`` asks for the other one."""
    keys = keys_of(folder)
    if any(key.startswith(GROUND + "sam_mask_decoder_modified.") for key in keys):
        raise UserError(
            f"{folder}: a checkpoint of Sa2VA-i, which holds two mask decoders, is not read; take the Sa2VA checkpoint of its size with "
            "frames: uniform, propagate: original and sam2: sam2_hiera_large.pt"
        )
    there = sorted(keys & set(SAM21_ONLY))
    if decoder == "sam2.0" and there:
        raise UserError(f"{folder}: decoder is sam2.0, but this checkpoint holds SAM 2.1 ({there[0]}); write decoder: sam2.1, or auto")
    if decoder == "sam2.1" and not there:
        raise UserError(
            f"{folder}: decoder is sam2.1, but this checkpoint holds SAM 2.0 (it has no {SAM21_ONLY[0]}); write decoder: auto, or put "
            "SAM 2.1 in its place first: python -m plugins.models.sa2va.replace_sam2"
        )
    return bool(there)


def parse_config(published: dict[str, Any], where: str = "config", sam21: bool = False) -> Sa2vaConfig:
    """Makes the parts' configurations. ``where`` names the source in errors."""
    try:
        return _parse(published, where, sam21)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, StrictDataclassError) as error:  # the last is transformers' own
        what = f"key {error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise UserError(f"{where}: not the configuration of a Sa2VA checkpoint: {what}") from error


def _parse(published: dict[str, Any], where: str, sam21: bool) -> Sa2vaConfig:
    if not isinstance(published, dict):
        raise TypeError("it is no JSON object")
    sam2 = published.get("sam2_config") or _SAM2_HIERA_L
    backend, layout = read_family(published, where)
    return Sa2vaConfig(
        published=published,
        layout=layout,
        backend=backend,
        sam2=_sam2(sam2),
        sam_size=sam2["image_size"],
        mask_width=sam2["hidden_size"],
        memory=memory_sizes(published),
        sam21=sam21,
        template=published.get("template") or "phi3_chat",
    )


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
