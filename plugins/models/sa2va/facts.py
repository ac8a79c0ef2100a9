"""What can be said of a checkpoint without loading its weights: for ``python -m core.check``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import Qwen2Tokenizer

from core.contracts import UserError
from plugins.models.sa2va import prompts
from plugins.models.sa2va.config import Sa2vaConfig, read_config
from plugins.models.sa2va.folder import shards
from plugins.models.sa2va.model import PUBLISHED_GROUPS, _add_lora, group_of
from plugins.models.sa2va.network import Network
from plugins.models.sa2va.preparation import Sa2vaPreparation


def facts(**given: Any) -> Mapping[str, Any]:
    """Takes the keys of ``load``. Raises ``UserError`` for a folder that is no complete checkpoint.

    ``preparation``; ``tokens(text)``, the tokens of a caption with the turn's end; ``parameters`` and ``trained`` (group ->
    count); ``frozen_bytes`` of one frozen parameter; ``activations(batch, caption)``, bytes that one forward of the language
    model keeps for its backward pass, of ``batch`` pictures cut into the most tiles and captions of ``caption`` tokens.
    """
    folder = given["checkpoint"]
    if not folder.is_dir():
        raise UserError(f"{folder}: no such checkpoint folder; give the folder that holds config.json and *.safetensors")
    config, tiles = read_config(folder), given.get("max_tiles", 12)
    shards(folder)  # refuses a folder from which one is missing
    with torch.device("meta"):
        network = Network(config)
        if given.get("lora"):
            _add_lora(network, given["lora"])
    groups = given.get("train") or [group for group in PUBLISHED_GROUPS if group != "lora" or given.get("lora")]
    trained = dict.fromkeys(groups, 0)
    for name, parameter in network.named_parameters():
        group = group_of(name)
        if group in trained:
            trained[group] += parameter.numel()
    tokenizer = Qwen2Tokenizer.from_pretrained(folder)
    end = prompts.turn_format(config.template).end
    return {
        "preparation": Sa2vaPreparation(config.tile, config.sam_size, config.grid, tiles),
        "tokens": lambda text: len(tokenizer.encode(text.strip() + end, add_special_tokens=False)),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "trained": trained,
        "frozen_bytes": getattr(torch, given.get("dtype", "float32")).itemsize,
        "activations": lambda batch, caption: _activations(config, tiles, batch, caption),
    }


def _activations(config: Sa2vaConfig, tiles: int, batch: int, caption: int) -> int:
    """Of each layer and token in 16 bit: about six vectors of the hidden size and four of the feed-forward size."""
    pictures = tiles + (tiles > 1)  # and the thumbnail
    length = config.grid**2 * pictures + config.grid**2 // 8 + 64 + caption  # a region of an eighth of the cells, and the turn
    llm = config.llm
    return batch * length * llm.num_hidden_layers * 2 * (6 * llm.hidden_size + 4 * llm.intermediate_size)
