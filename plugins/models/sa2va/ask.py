"""Answers and masks from a trained model. The model decides mode, precision and gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers.models.sam2.modeling_sam2 import Sam2MaskDecoder

from core.contracts import Answer, Prediction, UserError
from plugins.models.sa2va import prompts, tracking
from plugins.models.sa2va.backend import Shown
from plugins.models.sa2va.generation import Generated, greedy
from plugins.models.sa2va.mask_rule import MaskRule, counted
from plugins.models.sa2va.network import Network
from plugins.models.sa2va.pictures import Picture, check_regions, frames_of
from plugins.models.sa2va.pixels import square
from plugins.models.sa2va.preparation import Sa2vaPreparation, grid_cells
from plugins.models.sa2va.sequences import Sequences
from plugins.models.sa2va.text import Text
from plugins.models.sa2va.video import Video
from plugins.models.sa2va.vision import Vision


@dataclass(frozen=True)
class Asker:
    """What questions need of a model."""

    network: Network
    sequences: Sequences
    text: Text
    preparation: Sa2vaPreparation
    look: Callable[[np.ndarray], Vision]
    memory: Callable[[], tracking.Memory]
    original: Callable[[], Sam2MaskDecoder]
    device: torch.device
    rule: MaskRule
    video: Video

    def refer(self, image: np.ndarray, phrases: Sequence[str], max_new_tokens: int) -> list[Prediction]:
        """The answer to the canonical request for each phrase about one picture [H, W, 3] uint8, and the mask that ``rule`` makes of it."""
        text, vision = self.text, self.look(image)
        view = torch.zeros(len(phrases), dtype=torch.long, device=self.device)
        before, after = prompts.SEGMENT[0]
        masks: list[np.ndarray | None] = [None] * len(phrases)
        embedded = [self.sequences.embed(torch.tensor(text.ids(" " + phrase.strip()), device=self.device)) for phrase in phrases]
        heads = self.sequences.segment(vision, view, embedded, [before] * len(phrases), [after] * len(phrases), text.asked)
        expected = [text.ids(each + text.turn.end) for each in prompts.ANSWERS]
        generated = greedy(self.network.backend, heads, max_new_tokens, text.ended, expected)
        texts, found = [text.decode(ids) for ids in generated.ids], []
        for row, said in enumerate(texts):
            states = _seg_states(generated, row, text.seg)
            found += [(row, states[number]) for number in counted(self.rule, said, len(states))]
        if found:
            embedding = self.network.text_hidden_fcs(torch.stack([state for _, state in found]))  # [n, D2]
            for (row, _), mask in zip(found, self._masks(vision, embedding, image), strict=True):
                already = masks[row]
                masks[row] = mask if already is None else already | mask
        return [Prediction(said, mask) for said, mask in zip(texts, masks, strict=True)]

    def answer(
        self, visual: Picture | Sequence[Picture], question: str, regions: np.ndarray | None, max_new_tokens: int, newlines: int
    ) -> Answer:
        """The answer to a free question about a picture or a video; see ``Sa2va.predict``."""
        frames, video = frames_of(visual)
        if video and regions is not None:
            raise UserError("regions are about one picture; ask about a video without them")
        if not question.strip():
            raise UserError("the question is empty")
        masks = check_regions(regions, frames[0]) if regions is not None else None
        seen = self.video.seen(len(frames))
        memory = self.memory() if len(frames) > len(seen) else None  # before a long answer: perhaps there is none
        original = tracking.Original(self.original(), frames[0].shape[:2]) if video and self.video.propagate == "original" else None
        vision = None if video else self.look(frames[0])
        if vision is None:
            pictures = self._frames([frames[number] for number in seen])
        else:
            pictures = self.sequences.shown(vision, torch.zeros(1, dtype=torch.long, device=self.device))
        generated = self._generate(pictures, question, masks, max_new_tokens, newlines)
        text, states = self.text.decode(generated.ids[0]), _seg_states(generated, 0, self.text.seg)
        if not states:
            return Answer(text)
        embedding = self.network.text_hidden_fcs(torch.stack(states))  # [k, D2]
        if vision is not None:
            return Answer(text, list(self._masks(vision, embedding, frames[0])))
        pictures_of_sam = _Squares(frames, self.preparation.sam_size, self.device)
        logits = tracking.track(self.network, memory, pictures_of_sam, embedding, seen, original)  # n of [k, h, w]
        found = [self.network.final_mask(each, *frames[0].shape[:2]).cpu().numpy() for each in logits]  # n of [k, H, W]
        return Answer(text, list(np.stack(found, axis=1)))  # k of [n, H, W]

    def _masks(self, vision: Vision, embedding: Tensor, image: np.ndarray) -> np.ndarray:
        """[k, H, W] bool: masks of the only picture for [SEG] embeddings [k, D2]."""
        view = torch.zeros(len(embedding), dtype=torch.long, device=self.device)
        logits, _ = self.network.masks(vision.fpn([0]), view, embedding)
        return self.network.final_mask(logits, *image.shape[:2]).cpu().numpy()

    def _frames(self, frames: Sequence[np.ndarray]) -> list[Shown]:
        """Frames of a video as the language model reads them."""
        prepared = [self.preparation.pictures.frame(frame) for frame in frames]
        tiles, grids = torch.from_numpy(np.concatenate([tiles for tiles, _ in prepared])), [grid for _, grid in prepared]
        features = self.network.backend.encode(tiles.to(self.device), [len(tiles) for tiles, _ in prepared], grids)
        return self.network.backend.project(features, grids, range(len(frames)))

    def _generate(self, pictures: list[Shown], question: str, regions: np.ndarray | None, max_new_tokens: int, newlines: int) -> Generated:
        """Asks about pictures; regions [n, H, W] bool are those of the last one."""
        last, chosen = pictures[-1], []
        for region in regions if regions is not None else ():
            chosen.append(last.region(torch.from_numpy(grid_cells(region, last.grid)).flatten().to(self.device)))
        counts = [len(region.tokens) for region in chosen] if regions is not None else None
        turn = prompts.question_turn(self.text.asked, [len(picture.tokens) for picture in pictures], question, counts, newlines)
        return greedy(self.network.backend, [self.sequences.fill(turn, pictures, chosen)], max_new_tokens, self.text.ended)


@dataclass(frozen=True)
class _Squares:
    """SAM2's pictures of frames, made one at a time."""

    frames: Sequence[np.ndarray]
    size: int
    device: torch.device

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, number: int) -> Tensor:
        return torch.from_numpy(square(self.frames[number], self.size))[None].to(self.device)  # [1, 3, R, R] uint8


def _seg_states(generated: Generated, row: int, seg: int) -> list[Tensor]:
    """The state [D] of each [SEG] of a row; one that is the very last token was never read: upstream gives no mask for it either."""
    read = [generated.state(row, place) for place, token in enumerate(generated.ids[row][:-1]) if token == seg]
    return [state for state in read if state is not None]
