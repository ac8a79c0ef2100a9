"""A published checkpoint folder as a model."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from transformers.initialization import no_init_weights

from core.contracts import UserError
from plugins.models.sa2va.groups import Group, Lora, trained_groups
from plugins.models.sa2va.mask_rule import MaskRule
from plugins.models.sa2va.model import Sa2va
from plugins.models.sa2va.network import Network
from plugins.models.sa2va.published.config import read_config
from plugins.models.sa2va.published.folder import shards, stray
from plugins.models.sa2va.published.publisher import Published
from plugins.models.sa2va.published.tokenizer import read_tokenizer
from plugins.models.sa2va.published.weights import load_into
from plugins.models.sa2va.text import Text
from plugins.models.sa2va.video import UPSTREAM, DecoderVersion, Video


def load_folder(
    checkpoint: Path,
    lora: Lora | None = None,
    train: list[Group] | None = None,
    dtype: str = "float32",
    max_tiles: int = 12,
    sam_constants: str = "exact",
    resize: str = "exact",
    mask_rule: MaskRule = "first",
    video: Video = UPSTREAM,
    decoder: DecoderVersion = "auto",
) -> Sa2va:
    """See ``components.load``."""
    if not checkpoint.is_dir():
        here = "" if checkpoint.is_absolute() else f" in {Path.cwd()}"
        raise UserError(f"{checkpoint}: no such checkpoint folder{here}; give the folder that holds config.json and *.safetensors")
    config = read_config(checkpoint, decoder)
    text = Text(
        read_tokenizer(checkpoint, config.backend.llm.vocab_size), config.template, config.backend.marks, checkpoint
    )  # before gigabytes are read
    if ignored := stray(checkpoint):
        warnings.warn(
            f"{checkpoint}: {', '.join(ignored)} is not read: the weights are {', '.join(f.name for f in shards(checkpoint)[:4])}",
            stacklevel=2,
        )
    with no_init_weights():
        network = Network(config)
    groups = trained_groups(train, lora)
    for name, parameter in network.named_parameters():  # not .to(): float32 buffers such as rotary frequencies keep their precision
        # what is trained must not be rounded first: its master values, and an export without training, are the stored ones
        parameter.data = parameter.data.to(torch.float32 if network.group_of(name) in groups else getattr(torch, dtype))
    load_into(network, checkpoint)
    if sam_constants == "bfloat16":
        network.sam_constants = torch.bfloat16
    if config.backend.llm.tie_word_embeddings:
        llm: Any = network.backend.llm
        llm.tie_weights()
    return Sa2va(network, text, Published(checkpoint, load_folder), lora, train, max_tiles, resize == "fast", mask_rule, video)
