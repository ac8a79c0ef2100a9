"""``sa2va`` as a trainable model with four named parameter groups. A ``Publisher`` handles its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from transformers.models.sam2.modeling_sam2 import Sam2MaskDecoder

from core.contracts import Answer, Noise, Precision, Prediction, RegionBatch, Segmentation, Tokens, UserError, Wording
from plugins.models.sa2va import prompts
from plugins.models.sa2va.ask import Asker
from plugins.models.sa2va.backend import Grid
from plugins.models.sa2va.computing import computing
from plugins.models.sa2va.generation import captions
from plugins.models.sa2va.groups import Group, Lora, trained_groups
from plugins.models.sa2va.mask_rule import MaskRule
from plugins.models.sa2va.network import Network
from plugins.models.sa2va.pictures import Picture
from plugins.models.sa2va.preparation import Sa2vaPreparation
from plugins.models.sa2va.sequences import Sequences
from plugins.models.sa2va.text import Text
from plugins.models.sa2va.tracking import Memory
from plugins.models.sa2va.training import add_lora, choose_trained
from plugins.models.sa2va.video import UPSTREAM, Video
from plugins.models.sa2va.vision import Vision


class Publisher(Protocol):
    """The files of a model. All raise ``UserError``."""

    base: Path  # the folder that the model came from

    def memory(self, network: Network) -> Memory:
        """SAM2's video memory, which the network does not hold."""
        ...

    def original(self, network: Network, sam2: Path | None) -> Sam2MaskDecoder:
        """The mask decoder of SAM2's own file, or of the base as it is stored."""
        ...

    def save(self, model: Sa2va, folder: Path) -> None: ...

    def changes(self, model: Sa2va, folder: Path) -> list[dict[str, Any]]: ...

    def verify(self, model: Sa2va, folder: Path) -> dict[str, float]: ...

    def save_adapter(self, model: Sa2va, folder: Path) -> None: ...

    def save_legacy(self, model: Sa2va, file: Path) -> None: ...


@runtime_checkable
class Origin(Protocol):
    """Where trained weights came from that were laid over a base."""

    left_out: Mapping[str, Sequence[str]]  # group -> keys of the file that were not taken, though their values are not the base's

    def base_values(self) -> Mapping[str, Tensor]:
        """``group/name`` -> the value of each trained parameter before training: the base's, in float32; zero for an adapter."""
        ...


class Sa2va(nn.Module):
    """Obeys ``core.contracts.Model``; see there for shapes."""

    def __init__(
        self,
        network: Network,
        text: Text,
        publisher: Publisher | None,
        lora: Lora | None,
        train: list[Group] | None,
        max_tiles: int,
        fast_resize: bool = False,
        mask_rule: MaskRule = "first",
        video: Video = UPSTREAM,
    ) -> None:
        """``publisher``: None for a model that came from no folder and cannot be written."""
        super().__init__()
        self.mask_rule, self.video = mask_rule, video
        self.network, self.text, self.tokenizer, self.publisher = network, text, text.tokenizer, publisher
        self.origin: Origin | None = None  # where a file was laid over the base
        self.sequences = Sequences(network.backend, text)
        self._memory: list[Memory] | None = None  # in a list: it is no part of what is trained, moved or saved
        self._original: list[Sam2MaskDecoder] | None = None
        self._newlines = 1  # between region list and question, as training writes them
        self.preparation = Sa2vaPreparation(network.config.backend.pictures(max_tiles), network.config.sam_size, fast_resize)
        self.adapters = add_lora(network, lora) if lora is not None else None
        self._trainable = choose_trained(network, trained_groups(train, lora))
        self.seg_token, self.image_token, self.pad_token = text.seg, text.image, text.pad
        self.ordinary_tokens = text.ordinary

    @property
    def base(self) -> Path | None:
        """The folder that it came from."""
        return None if self.publisher is None else self.publisher.base

    @property
    def device(self) -> torch.device:
        return self.network.backend.embedding.device

    @property
    def frozen_dtype(self) -> torch.dtype:
        """Type of the weights that are not trained; float32 where all are."""
        return next((parameter.dtype for parameter in self.network.parameters() if not parameter.requires_grad), torch.float32)

    def computing(self, training: bool, precision: Precision = "auto") -> AbstractContextManager[None]:
        return computing(self, self.device.type, self.frozen_dtype, training, precision)

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
        return self.network.backend.embedding

    def head(self) -> tuple[Tensor, Tensor | None]:
        layer = self.network.backend.head
        if not isinstance(layer, nn.Linear):  # an adapter around it would be passed over
            what = f"the output layer is wrapped in {type(layer).__name__}, but losses and samplers read its own weights"
            raise UserError(f"{what}: leave lm_head out of the adapter's layers")
        return layer.weight, layer.bias

    def encode(self, batch: RegionBatch) -> Vision:
        return self.vision(batch.tiles, batch.tile_counts, batch.grids, batch.sam_pictures)

    def vision(self, tiles: Tensor, counts: Sequence[int], grids: Sequence[Grid], pictures: Tensor) -> Vision:
        """Features of N pictures: tiles [sum(counts), ...] uint8, the pictures' grids, and SAM2's pictures [N, 3, R, R] uint8."""
        # the gradient mode of this call: the first use may be the teacher's, which runs without gradient
        grad = torch.is_grad_enabled()

        def features() -> list[Any]:
            with torch.set_grad_enabled(grad and "vision_model" in self._trainable):
                return self.network.backend.encode(tiles, counts, grids)

        def sam_features(chosen: list[int]) -> tuple[Tensor, Tensor, Tensor]:
            with torch.set_grad_enabled(grad and "sam2_encoder" in self._trainable):
                return self.network.sam_features(pictures[chosen])

        return Vision(features, grids, sam_features)

    def look(self, image: np.ndarray) -> Vision:
        """Features of one picture [H, W, 3] uint8 that is asked about. Raises ``UserError`` for a shape that the backend refuses."""
        view = self.preparation.asked(image)
        tiles, sam = torch.from_numpy(view.tiles).to(self.device), torch.from_numpy(view.sam)[None].to(self.device)
        return self.vision(tiles, [len(tiles)], [view.grid], sam)

    # ------------------------------------------------------------------------------------------ training forwards

    def caption_states(
        self, vision: Vision, view: Tensor, cells: Sequence[Tensor], captions: Tokens, gate: Sequence[Tensor] | None = None
    ) -> Tensor:
        heads = self.sequences.describe(vision, view, cells, gate)
        bodies = [self.embed(ids[mask]) for ids, mask in zip(captions.ids, captions.mask, strict=True)]
        return self.sequences.predicting(heads, bodies, captions.mask.shape[1])[0]

    def region_tokens(self, vision: Vision, view: Tensor, cells: Sequence[Tensor]) -> list[Tensor]:
        shown = self.sequences.shown(vision, view)
        return [picture.region(chosen.flatten()).tokens for picture, chosen in zip(shown, cells, strict=True)]

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

    def generate(self, vision: Vision, view: Tensor, cells: Sequence[Tensor], length: int) -> Tokens:
        with self.computing(training=False):
            generated = captions(self.network.backend, self.sequences.describe(vision, view, cells), length, self.text.ended)
        return self.text.rows([self.text.without_end(ids) for ids in generated], self.device)

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
        checkpoints were trained, 2 as upstream's inference writes. Of a video the language model sees five frames; the [SEG]
        embedding gives their masks, and those of the others are tracked with SAM2's memory, as the keys of ``video`` say.

        With a list of phrases and the number of new tokens in the third place it is a list of ``Prediction``, whose mask is made of
        those that ``mask_rule`` counts.
        Raises ``UserError`` for what is no picture, and for a video of more than five frames if the checkpoint has no memory.
        """
        asker = Asker(
            self.network,
            self.sequences,
            self.text,
            self.preparation,
            self.look,
            self.memory,
            self.original,
            self.device,
            self.mask_rule,
            self.video,
        )
        with self.computing(training=False):
            if isinstance(text, str):
                return asker.answer(image, text, regions, max_new_tokens, newlines)
            return asker.refer(image, text, max_new_tokens if regions is None else regions)

    def ask(self, visual: np.ndarray | Sequence[np.ndarray], question: str, regions: np.ndarray | None, max_new_tokens: int) -> Answer:
        return self.predict(visual, question, regions, max_new_tokens=max_new_tokens, newlines=self._newlines)

    def follow_upstream(self) -> None:
        """``ask`` as upstream's inference does it: two newlines after a region list, and SAM2's mean and std rounded to bfloat16."""
        self._newlines, self.network.sam_constants = 2, torch.bfloat16

    def segmentation_request(self, phrase: str) -> str:
        before, after = prompts.SEGMENT[0]
        return f"{before} {phrase.strip()}{after}"

    # ------------------------------------------------------------------------------------------ files

    def memory(self) -> Memory:
        """SAM2's video memory, read from the base on first use."""
        if self._memory is None:
            self._memory = [self._files("read the video memory from").memory(self.network)]
        return self._memory[0].to(self.device)

    def original(self) -> Sam2MaskDecoder:
        """The mask decoder that carries masks through a video (``propagate: original``), read on first use."""
        if self._original is None:
            self._original = [self._files("read the original decoder from").original(self.network, self.video.sam2)]
        return self._original[0].to(self.device)

    def save(self, folder: Path) -> None:
        """Writes the model in the published layout: LoRA merged; what is not trained is copied from the base byte for byte."""
        self._files("take tokenizer and frozen tensors from").save(self, folder)

    def changes(self, folder: Path) -> list[dict[str, Any]]:
        """How an export differs from the base, one row for each group; see ``published.verify.changes``."""
        return self._files("compare with").changes(self, folder)

    def verify(self, folder: Path) -> dict[str, float]:
        """How far an export is, and computes, something else than this model; see ``published.verify.verify``."""
        return self._files("compare with").verify(self, folder)

    def save_adapter(self, folder: Path) -> None:
        """Writes the adapters alone in PEFT's layout."""
        self._files("add adapters to").save_adapter(self, folder)

    def base_values(self) -> Mapping[str, Tensor]:
        """``group/name`` -> each trained value before a training file was laid over it. Raises ``UserError`` where none was."""
        if self.origin is None:
            raise UserError("this model was not read from a training file: it does not know the trained values before training")
        return self.origin.base_values()

    def left_out(self) -> Mapping[str, Sequence[str]]:
        """Group -> tensors of the training file that were not taken, though their values are not the base's."""
        return {} if self.origin is None else self.origin.left_out

    def save_legacy(self, file: Path) -> None:
        """Writes the trained tensors as a training file ``.pth`` with upstream's names."""
        self._files("take names from").save_legacy(self, file)

    def _files(self, purpose: str) -> Publisher:
        if self.publisher is None:
            raise UserError(f"this model was not loaded from a folder; there is no base to {purpose}")
        return self.publisher
