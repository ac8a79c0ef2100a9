"""``sa2va.scratch``: a small, freshly initialised model of the same architecture, written in the published layout first.

For synthetic worlds and tests; it learns on a CPU. The tokenizer is a byte-level BPE trained on a text file, with the
special tokens of the published ones. Sizes and initialisation are those with which the [SEG] path was seen to learn.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers
from tokenizers import decoders as token_decoders
from torch import nn
from transformers import Qwen2Tokenizer

from core.contracts import UserError
from plugins.models.sa2va import prompts
from plugins.models.sa2va.config import parse_config
from plugins.models.sa2va.folder import native_tensors, published_tensor, write_folder
from plugins.models.sa2va.keys import published_names
from plugins.models.sa2va.model import Group, Sa2va, load
from plugins.models.sa2va.network import Network

_QWEN = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<quad>",
    "</quad>",
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
    "[SEG]",
    "<p>",
    "</p>",
    "<vp>",
    "</vp>",
]
# Qwen2's own pre-tokenizer (transformers, Qwen2 tokenizer)
_QWEN_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class Sizes:
    """Sizes of a small model; the defaults have about 1.6 million parameters."""

    tile: int = 128
    patch: int = 8
    vision_width: int = 64
    vision_layers: int = 2
    llm_width: int = 128
    llm_layers: int = 3
    sam_size: int = 128
    sam_width: int = 64
    hiera_width: int = 24
    hiera_stages: list[int] = field(default_factory=lambda: [1, 1, 2, 1])
    # a global-attention block must not be the first of its stage
    hiera_global: list[int] = field(default_factory=lambda: [3])
    hiera_windows: list[int] = field(default_factory=lambda: [8, 4, 4, 4])
    init_range: float = 0.08


def scratch(
    *,
    folder: Path,
    corpus: Path,
    train: list[Group],
    sizes: Sizes | None = None,
    template: str = "qwen_chat",
    seed: int = 0,
    vocabulary: int = 448,
) -> Sa2va:
    """Writes a new model to ``folder`` (or takes the one that an equal call wrote there) and loads it for training.

    ``corpus``: text lines from which the tokenizer learns its merges. Raises ``UserError`` if ``folder`` holds something else.
    """
    sizes = sizes or Sizes()
    if not corpus.is_file():
        raise UserError(f"{corpus}: no such file; model.corpus is a text file from which the tokenizer is trained")
    settings = {"sizes": asdict(sizes), "template": template, "seed": seed, "vocabulary": vocabulary}
    marker = folder / "scratch.json"
    if folder.exists():
        if not marker.is_file() or json.loads(marker.read_text(encoding="utf-8")) != settings:
            raise UserError(f"{folder}: exists and was not written with these settings; remove it or choose another model.folder")
    else:
        _write(
            folder, settings, sizes, template, seed, train_tokenizer(corpus.read_text(encoding="utf-8").splitlines(), vocabulary, template)
        )
    return load(checkpoint=folder, train=train, max_tiles=1)


def _write(folder: Path, settings: dict[str, Any], sizes: Sizes, template: str, seed: int, tokenizer: Qwen2Tokenizer) -> None:
    config = published_config(sizes, len(tokenizer), tokenizer.eos_token_id, template)
    network = new_network(config, sizes.init_range, seed)
    natives = native_tensors(network)
    names = [key for name, tensor in natives.items() for key in published_names(name, len(tensor) if tensor.ndim else 0)]
    parts = folder.with_name(folder.name + ".tokenizer")
    tokenizer.save_pretrained(parts)
    (parts / "scratch.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_folder(folder, ((key, published_tensor(key, natives.__getitem__).clone()) for key in sorted(names)), config, parts)
    shutil.rmtree(parts)


def train_tokenizer(lines: list[str], vocabulary: int, template: str) -> Qwen2Tokenizer:
    """Byte-level BPE over ``lines`` and the prompt texts, ``vocabulary`` ordinary tokens at most, then the special ones."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_QWEN_WORDS), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = token_decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    turn = prompts.turn_format(template)
    frame = [
        turn.before,
        turn.between,
        prompts.region_text([]),
        prompts.DESCRIBE,
        *prompts.ANSWERS,
        *(b + " the" + a for b, a in prompts.SEGMENT),
    ]
    tokenizer.train_from_iterator([*lines, *frame * 50], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _QWEN])
    return Qwen2Tokenizer(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


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


@torch.no_grad()
def new_network(config: dict[str, Any], init_range: float, seed: int) -> Network:
    """A network with fresh weights: transformers' own initialisation, position embeddings N(0, 0.1), SAM2 by fan-in.

    At these widths SAM2's usual 0.02 hardly learns; 0.7 / sqrt(fan-in) does.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(parse_config(config))
        for parameter in (network.vision.embeddings.position_embeddings, network.vision.embeddings.cls_token):
            nn.init.normal_(parameter, std=0.1)
        # words are what the decoder is taught with first: larger than the rest, or its lesson starts late
        nn.init.normal_(network.llm.model.embed_tokens.weight, std=0.3)
        backbone = network.sam2.vision_encoder.backbone
        for parameter in (backbone.pos_embed, backbone.pos_embed_window):
            nn.init.normal_(parameter, std=0.1)
        for module in network.sam2.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                fan_in = module.weight.shape[0] if isinstance(module, nn.ConvTranspose2d) else module.weight[0].numel()
                nn.init.normal_(module.weight, std=0.7 * fan_in**-0.5)
        for part, gain in ((network.projector, None), (network.text_hidden_fcs, 2**0.5)):
            for module in part.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=gain * module.in_features**-0.5 if gain else init_range)
                    nn.init.zeros_(module.bias)
    return network
