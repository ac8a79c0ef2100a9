"""``sa2va``: a published Sa2VA checkpoint as a trainable model with four named parameter groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor, nn
from transformers.initialization import no_init_weights

from core.contracts import Noise, Prediction, RegionBatch, Segmentation, Tokens, UserError, Wording
from plugins.models.sa2va import inference, prompts
from plugins.models.sa2va.config import read_config
from plugins.models.sa2va.folder import load_into
from plugins.models.sa2va.generation import greedy
from plugins.models.sa2va.groups import PUBLISHED_GROUPS, Group, Lora, add_lora, choose_trained, group_of, trained_groups
from plugins.models.sa2va.inference import Answer
from plugins.models.sa2va.network import Network, Vision
from plugins.models.sa2va.pictures import Picture
from plugins.models.sa2va.preparation import Sa2vaPreparation, sam_picture, tiles_of
from plugins.models.sa2va.sequences import Sequences
from plugins.models.sa2va.text import Text, read_tokenizer
from plugins.models.sa2va.tracking import Memory, load_memory

__all__ = ["PUBLISHED_GROUPS", "Answer", "Group", "Lora", "Sa2va", "group_of", "load"]


def load(
    *,
    checkpoint: Path,
    lora: Lora | None = None,
    train: list[Group] | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    max_tiles: int = 12,
    sam_constants: Literal["exact", "bfloat16"] = "exact",
    resize: Literal["exact", "fast"] = "exact",
) -> Sa2va:
    """Loads a folder in the published layout.

    ``train`` names the trained groups (default: the four of the method, without ``lora`` if there are no adapters);
    ``dtype`` is that of frozen weights, trained ones are float32. ``max_tiles`` bounds the tiles of a picture in training
    and inference; published checkpoints use 12. ``sam_constants: bfloat16`` rounds the mean and std of SAM2's pictures as
    upstream's inference does, which flips up to 0.3 % of a mask's pixels; its training does not. ``resize: fast`` halves the
    loaders' work; pixels differ from upstream's by 1 of 255 here and there.
    Raises ``UserError`` for a folder that is no complete Sa2VA checkpoint.
    """
    if not checkpoint.is_dir():
        here = "" if checkpoint.is_absolute() else f" in {Path.cwd()}"
        raise UserError(f"{checkpoint}: no such checkpoint folder{here}; give the folder that holds config.json and *.safetensors")
    config = read_config(checkpoint)
    text = Text(read_tokenizer(checkpoint), config.template, checkpoint)  # before gigabytes are read
    with no_init_weights():
        network = Network(config)
    groups = trained_groups(train, lora)
    for name, parameter in network.named_parameters():  # not .to(): float32 buffers such as rotary frequencies keep their precision
        # what is trained must not be rounded first: its master values, and an export without training, are the stored ones
        parameter.data = parameter.data.to(torch.float32 if group_of(name) in groups else getattr(torch, dtype))
    load_into(network, checkpoint)
    if sam_constants == "bfloat16":
        network.sam_constants = torch.bfloat16
    if config.llm.tie_word_embeddings:
        network.llm.tie_weights()
    return Sa2va(network, text, checkpoint, lora, train, max_tiles, resize == "fast")


class Sa2va(nn.Module):
    """Obeys ``core.contracts.Model``; see there for shapes."""

    def __init__(
        self,
        network: Network,
        text: Text,
        base: Path | None,
        lora: Lora | None,
        train: list[Group] | None,
        max_tiles: int,
        fast_resize: bool = False,
    ) -> None:
        super().__init__()
        config = network.config
        self.network, self.text, self.tokenizer, self.base = network, text, text.tokenizer, base
        self.sequences = Sequences(network, text)
        self._memory: list[Memory] | None = None  # in a list: it is no part of what is trained, moved or saved
        self.preparation = Sa2vaPreparation(config.tile, config.sam_size, config.grid, max_tiles, fast_resize)
        self.adapters = add_lora(network, lora) if lora is not None else None
        self._trainable = choose_trained(network, trained_groups(train, lora))
        self.seg_token, self.image_token, self.pad_token = text.seg, text.image, text.pad
        self.ordinary_tokens = text.ordinary

    @property
    def device(self) -> torch.device:
        return self.network.llm.lm_head.weight.device

    def trainable(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        return self._trainable

    # ------------------------------------------------------------------------------------------ tokens and pictures

    def tokenize(self, texts: Sequence[str], length: int) -> Tokens:
        return self.text.rows([self.text.ids(text.strip() + self.text.turn.end)[:length] for text in texts], self.device)

    def phrases(self, texts: Sequence[str], length: int) -> Tokens:
        return self.text.rows([self.text.ids(" " + text.strip())[:length] for text in texts], self.device)

    def decode(self, tokens: Tokens) -> list[str]:
        return [self.text.decode(ids[mask].tolist()) for ids, mask in zip(tokens.ids, tokens.mask, strict=True)]

    def embed(self, ids: Tensor) -> Tensor:
        return self.sequences.embed(ids)

    def embedding(self) -> Tensor:
        return self.network.llm.model.embed_tokens.weight

    def head(self) -> tuple[Tensor, Tensor | None]:
        layer = self.network.llm.lm_head
        if not isinstance(layer, nn.Linear):  # an adapter around it would be passed over
            what = f"the output layer is wrapped in {type(layer).__name__}, but losses and samplers read its own weights"
            raise UserError(f"{what}: leave lm_head out of the adapter's layers")
        return layer.weight, layer.bias

    def encode(self, batch: RegionBatch) -> Vision:
        return self.vision(batch.tiles, batch.tile_counts, batch.sam_pictures)

    def vision(self, tiles: Tensor, counts: list[int], pictures: Tensor) -> Vision:
        """Features of N pictures: tiles [sum(counts), 3, S, S] uint8 and SAM2's pictures [N, 3, R, R] uint8."""
        # gradient as it is now: the first use may be the teacher's, which has none
        grad = torch.is_grad_enabled()

        def tile_features() -> list[Tensor]:
            with torch.set_grad_enabled(grad and "vision_model" in self._trainable):
                return list(self.network.tile_features(tiles).split(counts))

        def sam_features(chosen: list[int]) -> tuple[Tensor, Tensor, Tensor]:
            with torch.set_grad_enabled(grad and "sam2_encoder" in self._trainable):
                return self.network.sam_features(pictures[chosen])

        return Vision(tile_features, sam_features)

    def look(self, image: np.ndarray) -> Vision:
        """Features of one picture [H, W, 3] uint8."""
        tiles = torch.from_numpy(tiles_of(image, self.preparation.tile, self.preparation.max_tiles)).to(self.device)
        picture = torch.from_numpy(sam_picture(image, self.preparation.sam_size))[None].to(self.device)
        return self.vision(tiles, [len(tiles)], picture)

    # ------------------------------------------------------------------------------------------ training forwards

    def caption_states(self, vision: Vision, view: Tensor, cells: Tensor, captions: Tokens, gate: Tensor | None = None) -> Tensor:
        heads = self.sequences.describe(vision, view, cells, gate)
        bodies = [self.embed(ids[mask]) for ids, mask in zip(captions.ids, captions.mask, strict=True)]
        return self.sequences.predicting(heads, bodies, captions.mask.shape[1])[0]

    def wording(self, samples: Sequence[str], noise: Noise | None) -> Wording:
        before, after, answers = [], [], []
        for sample in samples:
            question, answer = 0, 0
            if noise is not None:
                generator = noise.generator(sample, "wording")
                question = int(torch.randint(len(prompts.SEGMENT), (), generator=generator))
                answer = int(torch.randint(len(prompts.ANSWERS), (), generator=generator))
            before.append(prompts.SEGMENT[question][0])
            after.append(prompts.SEGMENT[question][1])
            answers.append(self.text.ids(prompts.ANSWERS[answer] + self.text.turn.end))
        return Wording(before, after, self.text.rows(answers, self.device))

    def segment(self, vision: Vision, view: Tensor, text: Tensor, text_mask: Tensor, wording: Wording) -> Segmentation:
        phrases = [row[mask] for row, mask in zip(text, text_mask, strict=True)]  # B of [t_i, D]
        heads = self.sequences.segment(vision, view, phrases, wording.before, wording.after)
        answers = wording.answers
        bodies = [self.embed(ids[mask]) for ids, mask in zip(answers.ids, answers.mask, strict=True)]
        before, after = self.sequences.predicting(heads, bodies, answers.mask.shape[1])
        seg = (answers.ids == self.seg_token).float().argmax(1)  # [B], where the answer holds [SEG]
        embedding = self.seg_embedding(after[torch.arange(len(seg), device=seg.device), seg])  # [B, D2]
        return Segmentation(self.masks(vision, view, embedding), before, embedding.float())

    def seg_embedding(self, states: Tensor) -> Tensor:
        return self.network.text_hidden_fcs(states)

    def masks(self, vision: Vision, view: Tensor, embedding: Tensor) -> Tensor:
        """[SEG] embeddings [B, D2] -> low-resolution mask logits [B, h, w] float32."""
        pictures, row = view.unique(return_inverse=True)
        return self.network.masks(vision.fpn(pictures.tolist()), row, embedding)[0]

    # ------------------------------------------------------------------------------------------ generation

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without dropout (a teacher that labels data inside a training step must not be noisy), in the frozen weights' precision."""
        training, frozen = self.training, self.network.sam2.no_memory_embedding.dtype
        self.eval()
        try:
            # a frozen base in 16 bit meets float32 in the trained groups
            with torch.autocast(self.device.type, frozen) if frozen != torch.float32 else nullcontext():
                yield
        finally:
            self.train(training)

    @contextmanager
    def computing(self, training: bool, precision: str = "auto") -> Iterator[None]:
        frozen = self.network.sam2.no_memory_embedding.dtype
        if training:
            half = precision == "bf16" or (precision == "auto" and frozen != torch.float32)
            if precision == "fp32" and frozen != torch.float32:
                raise UserError("train.precision: fp32 does not go with model.dtype=bfloat16")
            modes = {module: module.training for module in self.modules()}
            self.train()
            try:
                with torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext():
                    yield
            finally:
                for module, mode in modes.items():
                    module.training = mode
        else:
            with torch.no_grad(), self.evaluating():
                yield

    @torch.no_grad()
    def generate(self, vision: Vision, view: Tensor, cells: Tensor, length: int) -> Tokens:
        with self.evaluating():
            generated = greedy(self.network, self.sequences.describe(vision, view, cells), length, self.text.ended)
        return self.text.rows([self.text.without_end(ids) for ids in generated.ids], self.device)

    @overload
    def predict(self, image: np.ndarray, text: Sequence[str], regions: int) -> list[Prediction]: ...
    @overload
    def predict(
        self,
        image: Picture | Sequence[Picture],
        text: str,
        regions: np.ndarray | None = None,
        *,
        max_new_tokens: int = 512,
        newlines: int = 1,
    ) -> Answer: ...
    def predict(self, image: Any, text: Any, regions: Any = None, *, max_new_tokens: int = 512, newlines: int = 1) -> Any:
        """Answers a question, or (``core.contracts.Model``) the request for the mask of each phrase.

        ``image`` is a picture ([H, W, 3] uint8, a PIL picture or a file) or a video (a sequence of those, or [n, H, W, 3]).
        With a string ``text`` the result is an ``Answer``: text, and a mask for each [SEG] of it. ``regions`` [n, H, W] bool of
        a picture are listed in the prompt as region1, region2, ...; ``newlines`` stand between that list and the question: 1 as
        checkpoints were trained, 2 as upstream's inference writes. Of a video the language model sees the first five frames; the
        [SEG] embedding prompts these, and the masks of the others are tracked with SAM2's memory.

        With a list of phrases and the number of new tokens in the third place it is a list of ``Prediction``.
        Raises ``UserError`` for what is no picture, and for a video of more than five frames if the checkpoint has no memory.
        """
        if isinstance(text, str):
            return inference.answer(self, image, text, regions, max_new_tokens, newlines)
        return inference.refer(self, image, text, max_new_tokens if regions is None else regions)

    def memory(self) -> Memory:
        """SAM2's video memory, read from the base on first use."""
        if self._memory is None:
            if self.base is None:
                raise UserError("this model was not loaded from a folder; there is no base to read the video memory from")
            self._memory = [load_memory(self.network, self.base)]
        return self._memory[0].to(self.device)

    # ------------------------------------------------------------------------------------------ export

    def save(self, folder: Path) -> None:
        """Writes the model in the published layout: LoRA merged; what is not trained is copied from the base byte for byte."""
        from plugins.models.sa2va import export

        export.save(self, folder)

    def changes(self, folder: Path) -> list[dict[str, Any]]:
        """How an export differs from the base, one row for each group; see ``verification.changes``."""
        from plugins.models.sa2va import verification

        return verification.changes(self, folder)

    def verify(self, folder: Path) -> dict[str, float]:
        """How far an export is, and computes, something else than this model; see ``verification.verify``."""
        from plugins.models.sa2va import verification

        return verification.verify(self, folder)

    def save_adapter(self, folder: Path) -> None:
        """Writes the adapters alone in PEFT's layout."""
        from plugins.models.sa2va import export

        export.save_adapter(self, folder)

    def save_legacy(self, file: Path) -> None:
        """Writes the trained tensors as a training file ``.pth`` with upstream's names."""
        from plugins.models.sa2va import export

        export.save_legacy(self, file)
