"""What can be said of a checkpoint without loading its weights: for ``python -m core.check``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.contracts import UserError
from plugins.models.sa2va.groups import Group, Lora, trained_groups
from plugins.models.sa2va.network import Network, Sa2vaConfig
from plugins.models.sa2va.preparation import Sa2vaPreparation
from plugins.models.sa2va.published.config import read_config
from plugins.models.sa2va.published.folder import alike, shards, stored_tensors
from plugins.models.sa2va.published.footprint import prepared, working
from plugins.models.sa2va.published.tokenizer import read_tokenizer
from plugins.models.sa2va.published.training_file import Stored, read_trained
from plugins.models.sa2va.text import Text
from plugins.models.sa2va.training import add_lora


def facts(**given: Any) -> Mapping[str, Any]:
    """Takes the keys of ``load`` or ``load_legacy``. Raises ``UserError`` for a folder that is no complete checkpoint.

    ``preparation``; ``tokens(text)``, the tokens of a caption with the turn's end; ``parameters`` and ``trained`` (group ->
    count); ``frozen_bytes`` of one frozen parameter; ``working(work)`` and ``prepared(work)``, bytes (``published.footprint``);
    ``seg``: (status, sentence) on whether the [SEG] token can be emitted, and learned. Each special token is one id, or it raises.
    """
    folder = given["checkpoint"]
    if not folder.is_dir():
        raise UserError(f"{folder}: no such checkpoint folder; give the folder that holds config.json and *.safetensors")
    config, tiles = read_config(folder, given.get("decoder", "auto")), given.get("max_tiles", 12)
    shards(folder)  # refuses a folder from which one is missing
    stored = read_trained(given["file"], config.layout.adapted) if "file" in given else None
    lora: Lora | None = given.get("lora") if stored is None else stored.lora
    with torch.device("meta"):
        network = Network(config)
        if lora is not None:
            add_lora(network, lora)
    groups = [*trained_groups(given.get("train"), lora), *(given.get("take") or [])]
    text = Text(read_tokenizer(folder, config.backend.llm.vocab_size), config.template, config.backend.marks, folder)
    return {
        "preparation": Sa2vaPreparation(config.backend.pictures(tiles), config.sam_size, given.get("resize") == "fast"),
        "tokens": lambda caption: len(text.ids(caption.strip() + text.turn.end)),
        "seg": _seg(config, folder, text.seg, [group for group in groups if group in _EMITTING]),
        **({} if stored is None else {"left_out": _left_out(config, folder, stored, groups)}),
        **sizes(network, groups, given.get("dtype", "float32"), tiles),
    }


def sizes(network: Network, groups: Sequence[Group], dtype: str, tiles: int) -> dict[str, Any]:
    """Of the facts those about size, of a network without weights that has its adapters."""
    trained = dict.fromkeys(groups, 0)
    for name, parameter in network.named_parameters():
        group = network.group_of(name)
        if group in trained:
            trained[group] += parameter.numel()
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "trained": trained,
        "frozen_bytes": getattr(torch, dtype).itemsize,
        "working": lambda work: working(network, tiles, groups, work),
        "prepared": lambda work: prepared(network, tiles, work),
    }


#: What moves the scores of tokens: the language model, by itself or through adapters, and its output layer.
_EMITTING = ("lora", "language_model", "embeddings")


def _stored(folder: Path, key: str) -> Tensor | None:
    return next((tensor for _, tensor in stored_tensors(folder, lambda name: name == key)), None)


def _left_out(config: Sa2vaConfig, folder: Path, stored: Stored, groups: Sequence[Group]) -> tuple[str, str]:
    """Whether the training file holds embeddings that are not the base's and are not taken: the only ones that may be left."""
    layout, ties = config.layout, config.backend.llm.tie_word_embeddings
    given = [key for key in (layout.embeddings, layout.head) if key in stored.plain and "embeddings" not in groups]
    other = []
    for key, tensor in zip(given, stored.tensors([stored.plain[key] for key in given]), strict=True):
        base = _stored(folder, layout.embeddings if ties else key)
        if base is None or base.shape != tensor.shape or not alike(base, tensor):
            other.append(key)
    if not other:
        return "pass", f"everything that {stored.file} holds is taken, or is the base's"
    return "warn", f"left out of {stored.file}: {', '.join(other)}, whose values are not the base's; take: [embeddings] takes them"


def _seg(config: Sa2vaConfig, folder: Path, seg: int, emitting: list[str]) -> tuple[str, str]:
    """Whether the output layer has a row for [SEG], and something that is trained moves its score."""
    head = config.layout.embeddings if config.backend.llm.tie_word_embeddings else config.layout.head
    layer = _stored(folder, head)
    if layer is None:
        return "fail", f"[SEG] cannot be emitted: {head} is missing"
    norms = layer.float().norm(dim=1)  # [V]
    if seg >= len(norms):
        return "fail", f"[SEG] cannot be emitted: its id is {seg} and the output layer has {len(norms)} rows"
    if not norms[seg] > 0:
        return "fail", f"[SEG] cannot be emitted: row {seg} of the output layer is zero"
    row = f"[SEG] is token {seg}, its output row {norms[seg] / norms.median():.2f} times as long as the median"
    if not emitting:
        return "warn", f"{row}; nothing that is trained can learn to emit it (train lora, or language_model)"
    return "pass", f"{row}; trained groups that can emit it: {', '.join(emitting)}"
