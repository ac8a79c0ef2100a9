"""Answers and masks from a trained model; no gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from core.contracts import Prediction, UserError
from plugins.models.sa2va import prompts, tracking
from plugins.models.sa2va.generation import Generated, greedy
from plugins.models.sa2va.pictures import Picture, check_regions, frames_of
from plugins.models.sa2va.preparation import grid_cells, one_tile, sam_picture

if TYPE_CHECKING:
    from plugins.models.sa2va.model import Sa2va


@dataclass(frozen=True)
class Answer:
    """A generated answer, and a mask for each [SEG] in it: [H, W] bool of a picture, [n, H, W] bool of a video."""

    text: str
    masks: list[np.ndarray] = field(default_factory=list)


@torch.no_grad()
def refer(model: Sa2va, image: np.ndarray, phrases: Sequence[str], max_new_tokens: int) -> list[Prediction]:
    """The answer to the canonical request for each phrase about one picture [H, W, 3] uint8; its first [SEG] gives the mask."""
    text = model.text
    vision = model.look(image)
    view = torch.zeros(len(phrases), dtype=torch.long, device=model.device)
    before, after = prompts.SEGMENT[0]
    masks: list[np.ndarray | None] = [None] * len(phrases)
    with model.evaluating():
        embedded = [model.embed(torch.tensor(text.ids(" " + phrase.strip()), device=model.device)) for phrase in phrases]
        heads = model.sequences.segment(vision, view, embedded, [before] * len(phrases), [after] * len(phrases))
        expected = [text.ids(each + text.turn.end) for each in prompts.ANSWERS]
        generated = greedy(model.network, heads, max_new_tokens, text.ended, expected)
        found = [(row, states[0]) for row in range(len(phrases)) if (states := _seg_states(generated, row, text.seg))]
        if found:
            rows = [row for row, _ in found]
            logits = model.masks(vision, view[rows], model.seg_embedding(torch.stack([state for _, state in found])))
            for row, mask in zip(rows, model.network.final_mask(logits, *image.shape[:2]), strict=True):
                masks[row] = mask.cpu().numpy()
    return [Prediction(text.decode(ids), mask) for ids, mask in zip(generated.ids, masks, strict=True)]


@torch.no_grad()
def answer(
    model: Sa2va, visual: Picture | Sequence[Picture], question: str, regions: np.ndarray | None, max_new_tokens: int, newlines: int
) -> Answer:
    """The answer to a free question about a picture or a video; see ``Sa2va.predict``."""
    frames, video = frames_of(visual)
    if video and regions is not None:
        raise UserError("regions are about one picture; ask about a video without them")
    if not question.strip():
        raise UserError("the question is empty")
    masks = check_regions(regions, frames[0]) if regions is not None else None
    memory = model.memory() if len(frames) > tracking.PROMPTED else None  # before a long answer: perhaps there is none
    with model.evaluating():
        if video:
            tiles = torch.from_numpy(np.stack([one_tile(frame, model.preparation.tile) for frame in frames[: tracking.PROMPTED]]))
            features = model.network.image_tokens(model.network.tile_features(tiles.to(model.device)))  # [f, G*G, D]
            generated = _generate(model, list(features), question, None, max_new_tokens, newlines)
        else:
            vision = model.look(frames[0])
            tokens = model.sequences.image_tokens(vision, torch.zeros(1, dtype=torch.long, device=model.device))
            generated = _generate(model, tokens, question, masks, max_new_tokens, newlines)
        text, states = model.text.decode(generated.ids[0]), _seg_states(generated, 0, model.text.seg)
        if not states:
            return Answer(text)
        embedding = model.seg_embedding(torch.stack(states))  # [k, D2]
        if video:
            return Answer(text, list(_follow(model, memory, frames, embedding)))
        logits = model.masks(vision, torch.zeros(len(states), dtype=torch.long, device=model.device), embedding)
        return Answer(text, list(model.network.final_mask(logits, *frames[0].shape[:2]).cpu().numpy()))


def _generate(
    model: Sa2va, pictures: list[Tensor], question: str, regions: np.ndarray | None, max_new_tokens: int, newlines: int
) -> Generated:
    """Asks about pictures given as image tokens [n_i, D]; regions are those of the last one."""
    grid, device, chosen = model.preparation.grid, model.device, []
    if regions is not None:
        last = model.sequences.last_tile(pictures[-1])
        chosen = [last[torch.from_numpy(grid_cells(region, grid)).flatten().to(device)] for region in regions]
    counts = [len(region) for region in chosen] if regions is not None else None
    turn = prompts.question_turn(model.text.turn, [len(picture) for picture in pictures], question, counts, newlines)
    prompt = model.sequences.fill(turn, torch.cat([*pictures, *chosen]))
    return greedy(model.network, [prompt], max_new_tokens, model.text.ended)


def _seg_states(generated: Generated, row: int, seg: int) -> list[Tensor]:
    """The state [D] of each [SEG] of a row; one that is the very last token was never read: upstream gives no mask for it either."""
    read = [generated.state(row, place) for place, token in enumerate(generated.ids[row][:-1]) if token == seg]
    return [state for state in read if state is not None]


def _follow(model: Sa2va, memory: tracking.Memory | None, frames: list[np.ndarray], embedding: Tensor) -> np.ndarray:
    """[k, n, H, W] bool: k objects through n frames."""
    size = model.preparation.sam_size
    pictures = (torch.from_numpy(sam_picture(frame, size))[None].to(model.device) for frame in frames)
    logits = tracking.track(model.network, memory, pictures, embedding)
    return np.stack([model.network.final_mask(each, *frames[0].shape[:2]).cpu().numpy() for each in logits], axis=1)
