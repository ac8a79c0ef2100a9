"""The network: a vision-language backend, text_hidden_fcs, and SAM2 as upstream drives it. No prompt, no preparation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, Sam2Config, Sam2Model
from transformers.models.sam2.modeling_sam2 import Sam2MaskDecoder

from plugins.models.sa2va.backend import BackendConfig
from plugins.models.sa2va.groups import Group, Prefixes
from plugins.models.sa2va.pixels import normalize
from plugins.models.sa2va.published.keys import Layout

#: Of Sa2VA's own parts; a backend names those of its parts.
_GROUPS: Prefixes = [
    ("text_hidden_fcs.", "text_hidden_fcs"),
    ("sam2.mask_decoder.", "sam2_decoder"),
    ("sam2.", "sam2_encoder"),
]


@dataclass(frozen=True)
class Sa2vaConfig:
    """The sizes that matter here, and the configurations of the parts."""

    published: dict[str, Any]  # config.json as it was read
    layout: Layout  # the names of its tensors
    backend: BackendConfig
    sam2: Sam2Config
    sam_size: int  # side of the SAM2 picture in pixels
    mask_width: int  # of the mask decoder, which the [SEG] embedding has too
    memory: dict[str, Any] | None  # sizes of SAM2's video memory; None: the checkpoint has none
    template: str  # name of the turn format
    sam21: bool = False  # SAM 2.1: its memory knows when an object was seen, and that it is hidden

    @property
    def mask_size(self) -> int:
        """Side of the low-resolution mask."""
        return self.sam_size // 4


@dataclass(frozen=True)
class Decoded:
    """What the mask decoder says of B objects."""

    logits: Tensor  # [B, h, w] float32, low resolution
    iou: Tensor  # [B] float32, predicted
    token: Tensor  # [B, C], the output token of the chosen mask
    score: Tensor  # [B, 1], positive where the object is predicted to be visible


class _NoPositions(nn.Module):
    """In place of the encodings that transformers makes of each level and keeps, as large as the pyramid: nobody reads them."""

    def forward(self, shape: torch.Size, device: torch.device, dtype: torch.dtype) -> Tensor:
        return torch.empty(0, device=device, dtype=dtype)


class Network(nn.Module):
    """The backend's parts, text_hidden_fcs and SAM2, under names that checkpoints of a run and ``published.tables`` know."""

    def __init__(self, config: Sa2vaConfig) -> None:
        super().__init__()
        self.config = config
        self.sam_constants = torch.float32  # precision of the mean and std of the mask decoder's pictures
        self.backend = config.backend.build()
        for name, part in self.backend.parts.items():
            self.add_module(name, part)
        width, mask_width = config.backend.llm.hidden_size, config.mask_width
        self.text_hidden_fcs = nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, mask_width), nn.Dropout(0.0))
        self.sam2: Sam2Model = AutoModel.from_config(config.sam2, attn_implementation="sdpa")
        neck = self.sam2.vision_encoder.neck
        self.sam_positions = neck.position_encoding  # of a level of the pyramid, which only a video's memory asks for
        neck.position_encoding = _NoPositions()

    def group_of(self, name: str) -> Group:
        """The group of a parameter by its name."""
        if ".lora_" in name:
            return "lora"
        return next(group for prefix, group in (*self.backend.groups, *_GROUPS) if name.startswith(prefix))

    def sam_features(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, 3, R, R] uint8 -> the three levels of the feature pyramid, before the mask decoder's own convolutions."""
        pixels = normalize(pictures, self.sam2.no_memory_embedding.dtype, self.sam_constants)
        fine, middle, coarse = self.sam2.vision_encoder(pixels).fpn_hidden_states
        return fine, middle, coarse

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

    def decode(
        self,
        fine: Tensor,
        middle: Tensor,
        coarse: Tensor,
        embedding: Tensor | None,
        decoder: Sam2MaskDecoder | None = None,
        prompt_mask: Tensor | None = None,
    ) -> Decoded:
        """SAM2's mask decoder exactly as upstream drives it, on B objects' features (after conv_s0, conv_s1 and memory).

        Two not-a-point tokens stand before the language token ``embedding`` [B, D2] (None: a tracked frame has none), there is
        no mask prompt, the best of masks 1..3 is taken, and the object score does not touch the mask. ``decoder``: another than the
        network's own. With ``prompt_mask`` [B, 1, h, w], on the scale of logits, mask 0 is taken, as SAM2 does it.
        """
        decoder, prompt, batch = decoder or self.sam2.mask_decoder, self.sam2.prompt_encoder, len(coarse)
        sparse = prompt.not_a_point_embed.weight.expand(batch, 1, 2, -1)  # [B, 1, 2, C]
        if embedding is not None:
            sparse = torch.cat([sparse, embedding[:, None, None].to(sparse.dtype)], dim=2)  # [B, 1, 3, C]
        dense = prompt.no_mask_embed.weight.view(1, -1, 1, 1).expand_as(coarse)  # [B, C, s, s]
        if prompt_mask is not None:
            dense = prompt.mask_embed(prompt_mask)
        logits, ious, tokens, score = decoder(
            image_embeddings=coarse,
            image_positional_embeddings=self.sam2.get_image_wide_positional_embeddings().to(coarse.dtype).repeat(batch, 1, 1, 1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=prompt_mask is None,
            high_resolution_features=[fine, middle],
        )  # [B, 1, 3, h, w], [B, 1, 3], [B, 1, 3, C], [B, 1, 1]; with a prompt mask one instead of three
        best = ious[:, 0].argmax(-1)  # [B]
        every = torch.arange(batch, device=best.device)
        return Decoded(logits[every, 0, best].float(), ious[every, 0, best].float(), tokens[every, 0, best], score[:, 0])

    def final_mask(self, logits: Tensor, height: int, width: int) -> Tensor:
        """[B, h, w] logits -> [B, H, W] bool at the picture's size, by way of the SAM2 picture's size as upstream does."""
        size = self.config.sam_size
        large = F.interpolate(logits[:, None], (size, size), mode="bilinear", align_corners=False)
        return F.interpolate(large, (height, width), mode="bilinear", align_corners=False)[:, 0].sigmoid() > 0.5
