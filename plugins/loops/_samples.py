"""What loops show of their regions during training (``ShowsSamples``): pictures with masks, and texts by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from core.contracts import Model, RegionBatch, Sample, Tokens
from core.late import F, torch

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 512  # of a picture, at most, in pixels


def samples_of(
    batch: RegionBatch, view: Tensor, truth: Tensor, logits: Tensor | None, titles: Sequence[str], texts: Mapping[str, Sequence[str]]
) -> list[Sample]:
    """A sample for each region, on pictures ``view`` [B]: true masks [B, h, w] bool, predicted logits [B, h, w], B texts of each name.

    The picture is the mask decoder's view. The score is the IoU of the masks as the model has them.
    """
    side = min(SIDE, batch.sam_pictures.shape[-1])
    images = F.interpolate(batch.sam_pictures[view].float(), (side, side), mode="area").round().byte().movedim(1, -1)  # [B, side, side, 3]
    true = F.interpolate(truth[:, None].float(), (side, side))[:, 0] > 0.5  # [B, side, side]
    predicted = None if logits is None else F.interpolate(logits[:, None].float(), (side, side), mode="bilinear")[:, 0] > 0
    return [
        Sample(
            title=titles[i],
            image=images[i].cpu().numpy(),
            truth=true[i].cpu().numpy(),
            predicted=None if predicted is None else predicted[i].cpu().numpy(),
            score=None if logits is None else overlap(logits[i] > 0, truth[i]),
            id=batch.ids[i],
            texts={name: rows[i] for name, rows in texts.items()},
        )
        for i in range(len(batch))
    ]


def overlap(predicted: Tensor, truth: Tensor) -> float:
    """IoU of two masks [h, w] bool; 1 where both are empty."""
    union = int((predicted | truth).sum())
    return int((predicted & truth).sum()) / union if union else 1.0


def marked(model: Model, tokens: Tokens, where: Tensor) -> list[str]:
    """The text of each row, with the words of the tokens at ``where`` [B, T] bool in brackets: ``a large [of the] circle``."""
    made = []
    for ids, length, marks in zip(tokens.ids, tokens.mask.sum(1).tolist(), where.tolist(), strict=True):
        ends = [t for t in range(1, length + 1) if t == length or marks[t] != marks[t - 1]]  # of runs of tokens of one kind
        before = torch.arange(ids.shape[0], device=ids.device) < torch.tensor(ends, device=ids.device)[:, None]  # [runs, T]
        text, shown = "", ""
        for end, longer in zip(ends, model.decode(Tokens(ids.expand(len(ends), -1), before)), strict=True):
            same = next((i for i, (a, b) in enumerate(zip(text, longer, strict=False)) if a != b), min(len(text), len(longer)))
            piece = longer[same:]  # a cut letter or space may read otherwise once the next token is there
            words = piece.strip()
            shown += piece.replace(words, f"[{words}]", 1) if words and marks[end - 1] else piece
            text = longer
        made.append(shown)
    return made
