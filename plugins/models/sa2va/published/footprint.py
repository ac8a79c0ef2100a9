"""How much memory a micro-batch takes on a GPU beside weights, gradients and the optimizer's state, from sizes alone.

Each part follows from what the forwards keep for backward. The factors were fitted to updates whose tensors were counted on a fake GPU
(``benchmarks/counted.json``; ``tests/recipes/test_memory_of_recipes.py`` compares) while keys and values of captions still lay beside the
update, so that the whole is up to 12 % high. Attention keeps no scores: the flash kernel. Samplers
that hold the scores of the whole vocabulary are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.contracts import Work
from plugins.models.sa2va.network import Network

REQUEST = 64  # tokens of the texts around picture, region and caption
#: Bytes in 16 bit, for each number of ... that one token has:
ENCODING = 30  # the pixel-shuffled features, while the picture encoder runs
PROJECTED = 4.5  # the pixel-shuffled features, kept by the projector
NORMS = 16  # the hidden size, kept by a layer of the language model: its norms, attention and residual stream
GATED = 4  # the feed-forward size, kept by a layer: gate and up
PASSING = 12  # the feed-forward size, in a layer's forward or while it is computed again, at once
BACK = 10.5  # the feed-forward size, in a layer's backward
#: Of the pyramid's bytes, kept by the mask decoder for a region:
DECODED = 1.45
#: Bytes for each pixel and channel of SAM2's first stage, while its encoder runs:
ENCODER = 2.5


def prepared(network: Network, tiles: int, work: Work) -> int:
    """Bytes of a micro-batch as loaders hand it over: uint8 pixels of both models' pictures, and two masks for each region."""
    side = network.config.sam_size
    picture = 3 * side * side + network.config.backend.largest(tiles).numbers
    return work.pictures * picture + work.regions * 2 * (side // 4) ** 2


def working(network: Network, tiles: int, trained: Sequence[str], work: Work) -> int:
    """Bytes at the largest moment of a micro-batch whose pictures all have the most tiles and whose captions are as long as they may be."""
    config, unit = network.config, (2 if work.half else 4) / 2
    llm, (tokens, cells, _) = config.backend.llm, config.backend.largest(tiles)
    hidden, inner, layers = llm.hidden_size, llm.intermediate_size, llm.num_hidden_layers
    shuffled = max(parameter.shape[-1] for parameter in network.backend.parts["projector"].parameters())
    rows = work.regions * (tokens + cells // 6 + REQUEST + work.caption)  # of the language model, in one forward
    side, channels = config.sam_size, config.mask_width
    sam2_encoder: Any = config.sam2.vision_config
    pyramid = unit * 2 * channels * side * side * (1 / 16 + 1 / 64 + 1 / 256)  # of one picture
    deep = unit * 2 * config.backend.deep * hidden  # of a token, of a picture and where a prompt shows it
    kept = (unit * 2 * shuffled + deep) * work.pictures * tokens  # features of the pictures
    most = kept + unit * ENCODING * shuffled * work.pictures * tokens
    if "vision_model" in trained:
        kept += unit * 34 * shuffled * work.pictures * tokens * _vision_layers(network)
    layer = rows * unit * (NORMS * hidden + GATED * inner + 2 * _ranks(network))
    for forward in work.forwards:
        if forward != "masks":
            most = max(most, kept + rows * unit * PASSING * inner)
            kept += rows * layers * unit * 2 * hidden if work.recompute else layers * layer
            kept += unit * (PROJECTED * shuffled + 3 * hidden) * work.regions * tokens + rows * (unit * 6 * hidden + 2 * deep)
        if forward in ("segment", "masks"):
            encoder = unit * ENCODER * side * side * sam2_encoder.backbone_config.hidden_size
            most = max(most, kept + work.regions * encoder)
            kept += work.regions * pyramid * (1 + DECODED) * (10 if "sam2_encoder" in trained else 1)
            most = max(most, kept + work.regions * pyramid)
    if "caption_states" in work.forwards or "segment" in work.forwards:
        most = max(most, kept + (layer if work.recompute else 0) + rows * unit * BACK * inner)
    return round(most)


def _ranks(network: Network) -> int:
    """Of all adapters of a layer of the language model."""
    llm: Any = network.llm
    return sum(int(tensor.shape[0]) for name, tensor in llm.named_parameters() if ".layers.0." in name and ".lora_A." in name)


def _vision_layers(network: Network) -> int:
    vision = network.config.published.get("vision_config", {})
    return int(vision.get("num_hidden_layers") or vision.get("depth", 24))
