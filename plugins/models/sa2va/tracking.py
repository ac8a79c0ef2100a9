"""Masks through a video by SAM2's memory, driven as upstream drives it for inference, or as Sa2VA-i does.

Some frames are prompted. The others have no prompt and look at the memory of the prompted frames and of the last six tracked ones
(Ravi et al. 2024, bytedance/Sa2VA ``sam2.py``). A prompted frame is decoded with the [SEG] embedding like a still picture. Upstream
remembers it so; with an ``original`` decoder (kumuji/Sa2VA-i) its finished mask becomes SAM2's own mask prompt, and that decoder alone
works with the memory, which was trained with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Sam2VideoConfig
from transformers.models.sam2.modeling_sam2 import Sam2MaskDecoder
from transformers.models.sam2_video.modeling_sam2_video import (
    NO_OBJ_SCORE,
    Sam2VideoFeedForward,
    Sam2VideoMemoryAttention,
    Sam2VideoMemoryEncoder,
    get_1d_sine_pe,
)

from plugins.models.sa2va.network import Decoded, Network, Sa2vaConfig
from plugins.models.sa2va.video import SEEN

FRAMES = 7  # places in time that a memory may have
PROMPTED = SEEN  # frames that the language model sees and that are prompted
_POINTERS = 15  # frames before this one whose object pointers are used
_SCALE, _BIAS = 20.0, -10.0  # of a mask's probabilities before they are remembered, and of a mask as logits


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
        self.mask_downsample = nn.Conv2d(1, 1, kernel_size=4, stride=4)  # of a mask prompt
        self.sam21 = config.sam21
        if config.sam21:
            self.temporal_positional_encoding_projection_layer = nn.Linear(width, sizes["mem_dim"])
            self.occlusion_spatial_embedding_parameter = nn.Parameter(torch.empty(1, sizes["mem_dim"]))


class Pictures(Protocol):
    """SAM2's pictures of a video, each made when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Tensor:
        """[1, 3, R, R] uint8."""
        ...


@dataclass
class _Remembered:
    """One frame in memory."""

    features: Tensor  # [HW, k, M] bfloat16, as upstream stores them
    pointer: Tensor  # [k, C]
    number: int = 0  # of the frame


@dataclass(frozen=True)
class _Levels:
    """What a mask decoder takes of one picture, once for each of k objects."""

    fine: Tensor  # [k, C/8, R/4, R/4], after the decoder's conv_s0
    middle: Tensor  # [k, C/4, R/8, R/8], after its conv_s1
    coarse: Tensor  # [k, C, R/16, R/16]


@dataclass(frozen=True)
class Original:
    """Sa2VA-i's way: SAM2 as it was before Sa2VA, prompted with masks."""

    decoder: Sam2MaskDecoder
    size: tuple[int, int]  # height and width of the video, at which masks are finished before they become prompts


@torch.no_grad()
def track(
    network: Network,
    memory: Memory | None,
    pictures: Pictures,
    embedding: Tensor,
    seen: Sequence[int] | None = None,
    original: Original | None = None,
) -> Iterator[Tensor]:
    """Low-resolution mask logits [k, h, w] float32 of each frame, for k objects with language prompts ``embedding`` [k, D2].

    ``seen``: numbers of the prompted frames, in order, among them 0; None: the first ``PROMPTED``. ``memory`` may be None where all
    are prompted. ``original``: who remembers and tracks, instead of the network's own decoder.
    """
    count, objects = len(pictures), len(embedding)
    decoder = network.sam2.mask_decoder if original is None else original.decoder
    prompted: dict[int, tuple[Tensor, _Remembered | None]] = {}
    for number in range(min(PROMPTED, count)) if seen is None else seen:
        fpn = network.sam_features(pictures[number])
        still = _decoded_still(network, fpn, embedding)
        make = _with_language(network, memory, fpn, still) if original is None else _with_masks(network, memory, fpn, still, original)
        prompted[number] = make[0], None if make[1] is None else replace(make[1], number=number)
    remembered = [one for _, one in prompted.values() if one is not None]
    tracked: deque[_Remembered | None] = deque(maxlen=_POINTERS)  # of the frames before this one; None: a prompted one
    for number in range(count):
        if number in prompted:
            tracked.append(None)
            yield prompted[number][0]
            continue
        assert memory is not None
        levels = _levels(decoder, network.sam_features(pictures[number]), objects)
        recalled = _recall(network, memory, levels.coarse, remembered, tracked, number, count)
        decoded = network.decode(levels.fine, levels.middle, recalled, None, decoder)
        if original is not None:  # SAM2 itself shows nothing of an object that it believes to be hidden; upstream does
            decoded = replace(decoded, logits=torch.where(decoded.score[:, :, None] > 0, decoded.logits, NO_OBJ_SCORE))
        tracked.append(_remember(network, memory, levels.coarse, decoded))
        yield decoded.logits


def _levels(decoder: Sam2MaskDecoder, fpn: tuple[Tensor, Tensor, Tensor], objects: int) -> _Levels:
    return _Levels(*(level.expand(objects, -1, -1, -1) for level in (decoder.conv_s0(fpn[0]), decoder.conv_s1(fpn[1]), fpn[2])))


def _decoded_still(network: Network, fpn: tuple[Tensor, Tensor, Tensor], embedding: Tensor) -> Decoded:
    levels = _levels(network.sam2.mask_decoder, fpn, len(embedding))
    conditioned = levels.coarse + network.sam2.no_memory_embedding.view(1, -1, 1, 1)  # [k, C, R/16, R/16]
    return network.decode(levels.fine, levels.middle, conditioned, embedding)


def _with_language(
    network: Network, memory: Memory | None, fpn: tuple[Tensor, Tensor, Tensor], still: Decoded
) -> tuple[Tensor, _Remembered | None]:
    """Logits [k, h, w] of a prompted frame, and its memory: both as its [SEG] embedding gave them."""
    coarse = fpn[2].expand(len(still.logits), -1, -1, -1)
    return still.logits, None if memory is None else _remember(network, memory, coarse, still)


def _with_masks(
    network: Network, memory: Memory | None, fpn: tuple[Tensor, Tensor, Tensor], still: Decoded, original: Original
) -> tuple[Tensor, _Remembered | None]:
    """The same where the finished masks are prompts: SAM2 takes them as they are, and asks its decoder for the object pointer only."""
    side, small = network.config.sam_size, network.config.mask_size
    # finished without the way by the SAM2 picture's size: so does Sa2VA-i
    masks = F.interpolate(still.logits[:, None], original.size, mode="bilinear", align_corners=False).sigmoid() > 0.5  # [k, 1, H, W]
    large = F.interpolate(masks.float(), (side, side), mode="bilinear", align_corners=False, antialias=True) >= 0.5  # [k, 1, R, R]
    as_logits = large.float() * _SCALE + _BIAS
    logits = F.interpolate(as_logits, (small, small), mode="bilinear", align_corners=False, antialias=True)[:, 0]  # [k, h, w]
    if memory is None:
        return logits, None
    levels = _levels(original.decoder, fpn, len(logits))
    prompt = memory.mask_downsample(large.to(levels.coarse.dtype))  # [k, 1, h, w]
    shown = network.decode(levels.fine, levels.middle, levels.coarse, None, original.decoder, prompt)
    there = large.flatten(1).any(1, keepdim=True)  # [k, 1]
    score = torch.where(there, shown.score, _BIAS)  # an object without a pixel is not there, whatever the decoder says
    return logits, _remember(network, memory, levels.coarse, replace(shown, logits=logits, score=score), there)


def _remember(network: Network, memory: Memory, coarse: Tensor, decoded: Decoded, there: Tensor | None = None) -> _Remembered:
    """Encodes a frame's features [k, C, s, s] and its masks. ``there`` [k, 1]: whether they show something; None: what the score says."""
    masks = F.interpolate(decoded.logits[:, None], (network.config.sam_size,) * 2, mode="bilinear", align_corners=False)
    features, _ = memory.memory_encoder(coarse, (masks.sigmoid() * _SCALE + _BIAS).to(coarse.dtype))  # [k, M, s, s]
    visible = (decoded.score > 0).to(decoded.token.dtype)  # [k, 1]
    pointer = visible * memory.object_pointer_proj(decoded.token) + (1 - visible) * memory.no_object_pointer
    if memory.sam21:
        hidden = 1 - (visible if there is None else there.to(visible.dtype))  # [k, 1]
        features = features + (hidden * memory.occlusion_spatial_embedding_parameter)[:, :, None, None]
    return _Remembered(features.flatten(2).permute(2, 0, 1).bfloat16(), pointer)


def _recall(
    network: Network,
    memory: Memory,
    coarse: Tensor,
    prompted: Sequence[_Remembered],
    tracked: Iterable[_Remembered | None],
    number: int = 0,
    count: int = 0,
) -> Tensor:
    """The features [k, C, s, s] of the unprompted frame ``number`` of ``count`` after it has looked at the memory.

    ``tracked``: of the frames before it, the last one at the end; None where one was prompted. Of prompted frames that are still to come
    the features are seen, and the pointers are not.
    """
    objects, width, side, _ = coarse.shape
    places = memory.memory_temporal_positional_encoding  # [7, 1, 1, M]; the last place is that of all prompted frames
    channels = places.shape[-1]
    space = memory.memory_encoder.position_encoding((1, channels, side, side), coarse.device, torch.float32)
    space = space.flatten(2).permute(2, 0, 1).to(coarse.dtype)  # [HW, 1, M]
    # the frame before this one has place 0, the sixth before it place 5
    before = [(place, frame) for place, frame in enumerate(reversed(list(tracked))) if frame is not None]
    recent = [(place, frame) for place, frame in before if place < FRAMES - 1][::-1]
    seen = [(FRAMES - 1, frame) for frame in prompted] + recent
    past = [frame for frame in prompted if frame.number <= number]
    pointers = torch.stack([frame.pointer for frame in [*past, *(frame for _, frame in before)]])  # [p, k, C]
    split = pointers.unflatten(-1, (-1, channels)).transpose(1, 2).flatten(0, 1)  # [p * C/M, k, M], tokens of the memory's width
    ago = [number - frame.number for frame in past] + [place + 1 for place, _ in before]
    when = _in_time(memory, ago, count, split)
    tokens = torch.cat([*(frame.features.to(coarse.dtype) for _, frame in seen), split])
    where = torch.cat([*((space + places[place]).expand(-1, objects, -1) for place, _ in seen), when])
    position = network.sam_positions((1, width, side, side), coarse.device, torch.float32)
    attended = memory.memory_attention(
        current_vision_features=coarse.flatten(2).permute(2, 0, 1),  # [HW, k, C]
        current_vision_position_embeddings=position.flatten(2).permute(2, 0, 1).to(coarse.dtype),
        memory=tokens,
        memory_posision_embeddings=where,
        num_object_pointer_tokens=len(split),
    )  # [1, k, HW, C]
    return attended[0].transpose(1, 2).unflatten(2, (side, side))


def _in_time(memory: Memory, ago: Sequence[int], count: int, split: Tensor) -> Tensor:
    """Positions [p * C/M, k, M] of the pointers of frames so many frames ago: zero in SAM 2.0; in SAM 2.1 sines of the time."""
    if not memory.sam21:
        return torch.zeros_like(split)
    layer = memory.temporal_positional_encoding_projection_layer
    times = torch.tensor(ago, device=split.device, dtype=torch.float32) / (min(count, _POINTERS + 1) - 1)  # [p]
    encoded = layer(get_1d_sine_pe(times, dim=layer.in_features).to(split.dtype))  # [p, M]
    return encoded.repeat_interleave(len(split) // len(ago), 0)[:, None].expand_as(split)
