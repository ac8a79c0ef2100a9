"""A small, freshly initialised model of the same architecture, written in the published layout first.

For synthetic worlds and tests; it learns on a CPU. Sizes and initialisation are those with which the [SEG] path was seen to learn.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Qwen2Tokenizer

from core.contracts import UserError
from plugins.models.sa2va.backends.qwen import QwenVL
from plugins.models.sa2va.groups import Group
from plugins.models.sa2va.mask_rule import MaskRule
from plugins.models.sa2va.model import Sa2va
from plugins.models.sa2va.network import Network
from plugins.models.sa2va.published.config import parse_config
from plugins.models.sa2va.published.load import load_folder
from plugins.models.sa2va.published.scratch_config import published_config
from plugins.models.sa2va.published.scratch_tokenizer import train_tokenizer
from plugins.models.sa2va.published.weights import native_tensors, published_tensor
from plugins.models.sa2va.published.writing import write_folder
from plugins.models.sa2va.sizes import NewFamily, Sizes

VERSION = 2  # of the first weights: since 2 those of the vision tower are waves


def make(
    folder: Path,
    corpus: Path,
    train: list[Group],
    sizes: Sizes | None,
    template: str,
    seed: int,
    vocabulary: int,
    mask_rule: MaskRule = "first",
    family: NewFamily = "internvl",
) -> Sa2va:
    """See ``components.scratch``."""
    sizes = sizes or Sizes()
    if not corpus.is_file():
        raise UserError(f"{corpus}: no such file; model.corpus is a text file from which the tokenizer is trained")
    settings = {"version": VERSION, "sizes": asdict(sizes), "template": template, "seed": seed, "vocabulary": vocabulary}
    if family != "internvl":  # folders written before there was a choice do not name theirs
        settings["family"] = family
    marker = folder / "scratch.json"
    if folder.exists():
        if not marker.is_file() or json.loads(marker.read_text(encoding="utf-8")) != settings:
            raise UserError(f"{folder}: exists and was not written with these settings; remove it or choose another model.folder")
    else:
        tokenizer = train_tokenizer(corpus.read_text(encoding="utf-8").splitlines(), vocabulary, template)
        config = published_config(sizes, len(tokenizer), tokenizer.eos_token_id, template, family)
        _write(folder, settings, config, sizes.init_range, seed, tokenizer)
    return load_folder(folder, train=train, max_tiles=1, mask_rule=mask_rule)


def _write(folder: Path, settings: dict[str, Any], config: dict[str, Any], init_range: float, seed: int, tokenizer: Qwen2Tokenizer) -> None:
    network = new_network(config, init_range, seed)
    natives, layout = native_tensors(network), network.config.layout
    names = [key for name, tensor in natives.items() for key in layout.names(name, len(tensor) if tensor.ndim else 0)]
    parts = folder.with_name(folder.name + ".tokenizer")
    tokenizer.save_pretrained(parts)
    (parts / "scratch.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_folder(folder, ((key, published_tensor(layout, key, natives.__getitem__).clone()) for key in sorted(names)), config, parts)
    shutil.rmtree(parts)


@torch.no_grad()
def new_network(config: dict[str, Any], init_range: float, seed: int) -> Network:
    """A network with fresh weights: transformers' own initialisation, a vision tower that begins with waves, SAM2 by fan-in.

    At these widths SAM2's usual 0.02 hardly learns; 0.7 / sqrt(fan-in) does.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(parse_config(config))
        if isinstance(network.backend, QwenVL):
            _begin_qwen_vl(network.backend, init_range)
        else:
            _begin_internvl(network)
        # the decoder is trained on word embeddings first: they are larger than the rest, or it begins to learn late
        nn.init.normal_(network.backend.embedding, std=0.3)
        backbone = network.sam2.vision_encoder.backbone
        for parameter in (backbone.pos_embed, backbone.pos_embed_window):
            nn.init.normal_(parameter, std=0.1)
        for module in network.sam2.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                fan_in = module.weight.shape[0] if isinstance(module, nn.ConvTranspose2d) else module.weight[0].numel()
                nn.init.normal_(module.weight, std=0.7 * fan_in**-0.5)
        for part, gain in ((network.get_submodule("projector"), None), (network.text_hidden_fcs, 2**0.5)):
            for module in part.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=gain * module.in_features**-0.5 if gain else init_range)
                    nn.init.zeros_(module.bias)
    return network


def _begin_internvl(network: Network) -> None:
    vision: Any = network.get_submodule("vision.embeddings")
    nn.init.normal_(vision.cls_token, std=0.1)
    begin_with_waves(vision.patch_embeddings.projection, vision.position_embeddings)
    for name, parameter in network.get_submodule("vision").named_parameters():
        if "lambda" in name:  # the layers' scale, at first 0.1: few layers, trained for a short time, would hardly take part
            nn.init.ones_(parameter)


def _begin_qwen_vl(backend: QwenVL, init_range: float) -> None:
    """Qwen2.5-VL's picture encoder has no positions to begin with: attention alone turns with the place."""
    patches: nn.Conv3d = backend.vision.patch_embed.proj
    channels, colours, moments, patch, _ = patches.weight.shape
    patches.weight.copy_(wave_filters(channels, colours, patch)[:, :, None].expand_as(patches.weight) / moments)
    if patches.bias is not None:
        nn.init.zeros_(patches.bias)
    if hasattr(backend.vision, "pos_embed"):
        positions: nn.Parameter = backend.vision.pos_embed.weight  # [side * side, C]
        positions.copy_(wave_places(backend.vision.num_grid_per_side, channels))
    head: Any = backend.head
    nn.init.normal_(head.weight, std=init_range)


def begin_with_waves(patches: nn.Conv2d, positions: nn.Parameter) -> None:
    """First weights of a vision tower with ``positions`` [1, 1 + side * side, C]; see ``wave_filters`` and ``wave_places``."""
    channels, colours, patch, _ = patches.weight.shape
    patches.weight.copy_(wave_filters(channels, colours, patch))
    if patches.bias is not None:
        nn.init.zeros_(patches.bias)
    positions[0, 1:] = wave_places(round((positions.shape[1] - 1) ** 0.5), channels)


def wave_filters(channels: int, colours: int, patch: int) -> torch.Tensor:
    """[C, colours, P, P], with which a vision tower is to learn edges from few pictures, in random directions of its width C.

    The lowest waves of each colour, as in JPEG; the even one, a picture's strongest part by far, is damped.
    """
    pixels = waves(patch, patch) / waves(patch, patch).norm(dim=0)  # [patch, patch]
    lowest_first = sorted(((u, v) for u in range(patch) for v in range(patch)), key=lambda pair: (sum(pair), pair))
    planes = torch.stack([torch.outer(pixels[:, u], pixels[:, v]) * (0.6 if u + v else 0.15) for u, v in lowest_first])
    filters = torch.einsum("kxy,cd->kcdxy", planes, torch.eye(colours)).flatten(0, 1)[:channels]  # [n, colours, patch, patch]
    return (turn(channels)[:, : len(filters)] @ filters.flatten(1)).view(channels, colours, patch, patch)


def wave_places(side: int, channels: int) -> torch.Tensor:
    """[side * side, C], with which a vision tower is to learn places, in random directions of its width C.

    Waves over rows and over columns, those of one and of half a turn as strong as each other, since "in the middle" needs the one and
    "on the left" the other.
    """
    turns = torch.arange(1, channels // 2 + 1)
    line = 2 * waves(side, channels // 2 + 1)[:, 1:] / (turns / 2).clamp_min(1)  # [side, C / 2]
    places = torch.cat([line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)], dim=2)  # [side, side, C]
    return places.flatten(0, 1) @ turn(channels)


def waves(length: int, count: int) -> torch.Tensor:
    """[length, count]: column k is a cosine of k half turns over the length."""
    return torch.cos(torch.pi / length * torch.outer(torch.arange(length) + 0.5, torch.arange(count)))


def turn(width: int) -> torch.Tensor:
    """A random rotation [width, width]."""
    return torch.linalg.qr(torch.randn(width, width))[0]
