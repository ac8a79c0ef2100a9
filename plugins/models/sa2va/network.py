"""The network: transformers' own modules, composed as upstream composes them. No prompt, no preparation, no training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForCausalLM, InternVLVisionModel, Qwen2ForCausalLM, Sam2Model
from transformers.models.internvl.modeling_internvl import InternVLMultiModalProjector

from plugins.models.sa2va.config import Sa2vaConfig
from plugins.models.sa2va.preparation import normalize

FEW = 8  # rows up to which a float32 product on a CPU is bound by reading the other matrix


class Vision:
    """Features of N pictures up to the first layer that may be trained: computed once, on first use, for all forwards."""

    def __init__(self, tiles: Callable[[], list[Tensor]], fpn: Callable[[list[int]], tuple[Tensor, ...]]) -> None:
        """``fpn`` gives the pyramids of the pictures that it is asked for."""
        self._tiles, self._fpn = tiles, fpn
        self._pyramids: dict[int, tuple[Tensor, ...]] = {}  # picture -> the levels of its pyramid, without the batch dimension

    @cached_property
    def tiles(self) -> list[Tensor]:
        """N of [n_i, G*G, C], pixel-shuffled, before the projector."""
        return self._tiles()

    def fpn(self, pictures: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """[n, C, R/4, R/4], [n, C, R/8, R/8], [n, C, R/16, R/16] of n pictures, before conv_s0 and conv_s1.

        Only pictures in which something is segmented are encoded: of loop 1's pairs, the second ones.
        """
        if new := [picture for picture in pictures if picture not in self._pyramids]:
            self._pyramids |= zip(new, zip(*self._fpn(new), strict=True), strict=True)
        fine, middle, coarse = (torch.stack(level) for level in zip(*(self._pyramids[picture] for picture in pictures), strict=True))
        return fine, middle, coarse


@dataclass(frozen=True)
class Decoded:
    """What the mask decoder says of B objects."""

    logits: Tensor  # [B, h, w] float32, low resolution
    iou: Tensor  # [B] float32, predicted
    token: Tensor  # [B, C], the output token of the chosen mask
    score: Tensor  # [B, 1], positive where the object is thought to be visible


def pixel_shuffle(features: Tensor, factor: float, version: str) -> Tensor:
    """[n, side, side, C] -> [n, (side * factor)**2, C / factor**2]; version "v1" is the transpose of "v2" in space."""
    n, side, _, channels = features.shape
    step, small = int(1 / factor), int(side * factor)
    blocks = features.view(n, small, step, small, step, channels).permute(0, 1, 3, 2, 4, 5)  # [n, s, s, step, step, C]
    if version == "v1":
        blocks = blocks.transpose(1, 2)
    return blocks.reshape(n, small * small, step * step * channels)


class Network(nn.Module):
    """InternViT, projector, Qwen2, text_hidden_fcs and SAM2 under the names that ``keys`` maps."""

    def __init__(self, config: Sa2vaConfig) -> None:
        super().__init__()
        self.config = config
        self.sam_constants = torch.float32  # precision of the mean and std of the mask decoder's pictures
        self.vision: InternVLVisionModel = AutoModel.from_config(config.vision, attn_implementation="sdpa")
        self.projector = InternVLMultiModalProjector(config.projector())
        self.llm: Qwen2ForCausalLM = AutoModelForCausalLM.from_config(config.llm, attn_implementation="sdpa")
        width, mask_width = config.llm.hidden_size, config.mask_width
        self.text_hidden_fcs = nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, mask_width), nn.Dropout(0.0))
        self.sam2: Sam2Model = AutoModel.from_config(config.sam2, attn_implementation="sdpa")

    def tile_features(self, tiles: Tensor) -> Tensor:
        """[n, 3, S, S] uint8 -> [n, G*G, C] before the projector."""
        pixels = normalize(tiles, self.vision.embeddings.cls_token.dtype)
        tokens = self.vision(pixels).last_hidden_state[:, 1:]  # [n, side*side, width], without CLS
        side = int(tokens.shape[1] ** 0.5)
        return pixel_shuffle(tokens.unflatten(1, (side, side)), self.config.downsample, self.config.pixel_shuffle)

    def sam_features(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, 3, R, R] uint8 -> the three levels of the feature pyramid, before the mask decoder's own convolutions."""
        pixels = normalize(pictures, self.sam2.no_memory_embedding.dtype, self.sam_constants)
        fine, middle, coarse = self.sam2.vision_encoder(pixels).fpn_hidden_states
        return fine, middle, coarse

    def image_tokens(self, features: Tensor) -> Tensor:
        """[n, G*G, C] -> [n, G*G, D]."""
        return self.projector(features)

    def hidden_states(self, inputs_embeds: Tensor) -> Tensor:
        """[B, L, D] right-padded -> [B, L, D] after the final norm. Causal, so that padding at the right changes nothing."""
        return self.llm.model(inputs_embeds=inputs_embeds, use_cache=False).last_hidden_state

    def next_tokens(self, states: Tensor, packed: Tensor | None = None) -> Tensor:
        """[B, n, D] -> [B, n] int64, the likeliest token after each state. ``packed`` is what ``packed_head`` gave."""
        head = self.llm.lm_head
        rows = states.flatten(0, 1)  # [B * n, D]: of a 3-D slice, linear would make a product of its own, and a copy of the head, per row
        if packed is not None:
            logits = torch.ops.mkldnn._linear_pointwise(rows.to(head.weight.dtype), packed, head.bias, "none", [], "")  # [B * n, V]
        elif rows.device.type == "cpu" and head.weight.dtype == torch.float32 and len(rows) <= FEW:
            logits = (head.weight @ rows.T).T  # [B * n, V], in the order that reads the head in half the time
            logits = logits if head.bias is None else logits + head.bias
        else:
            logits = head(rows)
        return logits.max(-1).indices.unflatten(0, states.shape[:2])  # argmax takes four times as long in bfloat16 on a CPU

    def packed_head(self, rows: int) -> Tensor | None:
        """A copy of the output layer in the order in which a CPU reads it fastest for that many rows; None where there is no such order.

        A product with few rows otherwise puts the matrix into that order anew each time. The operators are those that
        torch.compile uses; products are the same but for the order of their sums.
        """
        weight = self.llm.lm_head.weight
        known = weight.device.type == "cpu" and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        if not known or not (weight.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()):
            return None
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)  # [V, D], opaque
        return packed

    def masks(self, fpn: tuple[Tensor, Tensor, Tensor], view: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Mask of each [SEG]: pyramid of N pictures, picture index [B], [SEG] embedding [B, D2] -> ([B, h, w], [B]) logits, predicted IoU.

        The no-memory embedding is added to the coarsest level only.
        """
        decoder = self.sam2.mask_decoder
        pictures, row = view.unique(return_inverse=True)  # convolve each picture once
        fine = decoder.conv_s0(fpn[0][pictures])[row]  # [B, C/8, R/4, R/4]
        middle = decoder.conv_s1(fpn[1][pictures])[row]  # [B, C/4, R/8, R/8]
        coarse = (fpn[2] + self.sam2.no_memory_embedding.view(1, -1, 1, 1))[view]  # [B, C, R/16, R/16]
        decoded = self.decode(fine, middle, coarse, embedding)
        return decoded.logits, decoded.iou

    def decode(self, fine: Tensor, middle: Tensor, coarse: Tensor, embedding: Tensor | None) -> Decoded:
        """SAM2's mask decoder exactly as upstream drives it, on B objects' features (after conv_s0, conv_s1 and memory).

        Two not-a-point tokens stand before the language token ``embedding`` [B, D2] (None: a tracked frame has none), there is
        no mask prompt, the best of masks 1..3 is taken, and the object score does not touch the mask.
        """
        decoder, prompt, batch = self.sam2.mask_decoder, self.sam2.prompt_encoder, len(coarse)
        sparse = prompt.not_a_point_embed.weight.expand(batch, 1, 2, -1)  # [B, 1, 2, C]
        if embedding is not None:
            sparse = torch.cat([sparse, embedding[:, None, None].to(sparse.dtype)], dim=2)  # [B, 1, 3, C]
        dense = prompt.no_mask_embed.weight.view(1, -1, 1, 1).expand_as(coarse)
        logits, ious, tokens, score = decoder(
            image_embeddings=coarse,
            image_positional_embeddings=self.sam2.get_image_wide_positional_embeddings().to(coarse.dtype).repeat(batch, 1, 1, 1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            high_resolution_features=[fine, middle],
        )  # [B, 1, 3, h, w], [B, 1, 3], [B, 1, 3, C], [B, 1, 1]
        best = ious[:, 0].argmax(-1)  # [B]
        every = torch.arange(batch, device=best.device)
        return Decoded(logits[every, 0, best].float(), ious[every, 0, best].float(), tokens[every, 0, best], score[:, 0])

    def final_mask(self, logits: Tensor, height: int, width: int) -> Tensor:
        """[B, h, w] logits -> [B, H, W] bool at the picture's size, by way of the SAM2 picture's size as upstream does."""
        size = self.config.sam_size
        large = F.interpolate(logits[:, None], (size, size), mode="bilinear", align_corners=False)
        return F.interpolate(large, (height, width), mode="bilinear", align_corners=False)[:, 0].sigmoid() > 0.5
