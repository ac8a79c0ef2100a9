"""Masks through a video: SAM 2.0's memory, driven as upstream drives it for inference.

The first frames are prompted with the [SEG] embedding, each like a still picture; the later ones have no prompt and look at
the memory of the prompted frames and of the last six tracked ones (Ravi et al. 2024, bytedance/Sa2VA ``sam2.py``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Sam2VideoConfig
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoFeedForward, Sam2VideoMemoryAttention, Sam2VideoMemoryEncoder

from plugins.models.sa2va.network import Decoded, Network, Sa2vaConfig

FRAMES = 7  # places in time that a memory may have
PROMPTED = 5  # frames that the language model sees and the [SEG] embedding prompts
_POINTERS = 15  # tracked frames whose object pointers are used
_SCALE, _BIAS = 20.0, -10.0  # of a mask's probabilities before they are remembered


class Memory(nn.Module):
    """The modules that pictures do not use, under transformers' names (``Sam2VideoModel``)."""

    def __init__(self, config: Sa2vaConfig) -> None:
        super().__init__()
        width, sizes = config.mask_width, config.memory
        assert sizes is not None
        video = Sam2VideoConfig(
            image_size=config.sam_size,
            memory_attention_hidden_size=width,
            memory_attention_num_layers=sizes["num_layers"],
            memory_attention_feed_forward_hidden_size=sizes["dim_feedforward"],
            memory_attention_rope_feat_sizes=[config.sam_size // 16] * 2,
            rope_parameters={"rope_type": "axial", "rope_theta": sizes.get("rope_theta", 10000.0)},
            memory_encoder_hidden_size=width,
            memory_encoder_output_channels=sizes["mem_dim"],
            mask_downsampler_embed_dim=width,
            memory_fuser_embed_dim=width,
            memory_fuser_intermediate_dim=4 * width,
        )
        video._attn_implementation = "sdpa"
        self.memory_attention = Sam2VideoMemoryAttention(video)
        self.memory_encoder = Sam2VideoMemoryEncoder(video)
        self.object_pointer_proj = Sam2VideoFeedForward(width, width, width, 3)
        self.no_object_pointer = nn.Parameter(torch.empty(1, width))
        self.memory_temporal_positional_encoding = nn.Parameter(torch.empty(FRAMES, 1, 1, sizes["mem_dim"]))


@dataclass
class _Remembered:
    """One frame in memory."""

    features: Tensor  # [HW, k, M] bfloat16, as upstream stores them
    pointer: Tensor  # [k, C]


@torch.no_grad()
def track(network: Network, memory: Memory | None, pictures: Iterable[Tensor], embedding: Tensor) -> Iterator[Tensor]:
    """Low-resolution mask logits [k, h, w] float32 of each frame, for k objects with language prompts ``embedding`` [k, D2].

    ``pictures`` are SAM2's pictures [1, 3, R, R] uint8, one at a time. Without ``memory`` there may be no more than ``PROMPTED``.
    """
    decoder, objects = network.sam2.mask_decoder, len(embedding)
    prompted: list[_Remembered] = []
    tracked: deque[_Remembered] = deque(maxlen=_POINTERS)
    for number, picture in enumerate(pictures):
        fpn = network.sam_features(picture)
        fine = decoder.conv_s0(fpn[0]).expand(objects, -1, -1, -1)  # [k, C/8, R/4, R/4]
        middle = decoder.conv_s1(fpn[1]).expand(objects, -1, -1, -1)  # [k, C/4, R/8, R/8]
        coarse = fpn[2].expand(objects, -1, -1, -1)  # [k, C, R/16, R/16]
        if number < PROMPTED:
            conditioned = coarse + network.sam2.no_memory_embedding.view(1, -1, 1, 1)
            decoded = network.decode(fine, middle, conditioned, embedding)
        else:
            assert memory is not None
            decoded = network.decode(fine, middle, _recall(network, memory, coarse, prompted, tracked), None)
        if memory is not None:
            remembered = _remember(network, memory, coarse, decoded)
            (prompted if number < PROMPTED else tracked).append(remembered)
        yield decoded.logits


def _remember(network: Network, memory: Memory, coarse: Tensor, decoded: Decoded) -> _Remembered:
    """Encodes a frame's features [k, C, s, s] and its masks."""
    masks = F.interpolate(decoded.logits[:, None], (network.config.sam_size,) * 2, mode="bilinear", align_corners=False)
    features, _ = memory.memory_encoder(coarse, (masks.sigmoid() * _SCALE + _BIAS).to(coarse.dtype))  # [k, M, s, s]
    visible = (decoded.score > 0).to(decoded.token.dtype)  # [k, 1]
    pointer = visible * memory.object_pointer_proj(decoded.token) + (1 - visible) * memory.no_object_pointer
    return _Remembered(features.flatten(2).permute(2, 0, 1).bfloat16(), pointer)


def _recall(network: Network, memory: Memory, coarse: Tensor, prompted: list[_Remembered], tracked: deque[_Remembered]) -> Tensor:
    """The features [k, C, s, s] of an unprompted frame after it has looked at the memory."""
    objects, width, side, _ = coarse.shape
    places = memory.memory_temporal_positional_encoding  # [7, 1, 1, M]; the last place is that of all prompted frames
    channels = places.shape[-1]
    space = memory.memory_encoder.position_encoding((1, channels, side, side), coarse.device, torch.float32)
    space = space.flatten(2).permute(2, 0, 1).to(coarse.dtype)  # [HW, 1, M]
    # the frame before this one has place 0, the sixth before it place 5
    recent = list(enumerate(list(tracked)[:-FRAMES:-1]))[::-1]
    seen = [(FRAMES - 1, frame) for frame in prompted] + recent
    pointers = torch.stack([frame.pointer for frame in [*prompted, *reversed(tracked)]])  # [p, k, C]
    # a pointer is split into tokens of the memory's width, which have no position
    split = pointers.unflatten(-1, (-1, channels)).transpose(1, 2).flatten(0, 1)  # [p * C/M, k, M]
    tokens = torch.cat([*(frame.features.to(coarse.dtype) for _, frame in seen), split])
    where = torch.cat([*((space + places[place]).expand(-1, objects, -1) for place, _ in seen), torch.zeros_like(split)])
    position = network.sam_positions((1, width, side, side), coarse.device, torch.float32)
    attended = memory.memory_attention(
        current_vision_features=coarse.flatten(2).permute(2, 0, 1),  # [HW, k, C]
        current_vision_position_embeddings=position.flatten(2).permute(2, 0, 1).to(coarse.dtype),
        memory=tokens,
        memory_posision_embeddings=where,
        num_object_pointer_tokens=len(split),
    )  # [1, k, HW, C]
    return attended[0].transpose(1, 2).unflatten(2, (side, side))
