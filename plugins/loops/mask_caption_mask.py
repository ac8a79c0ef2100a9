"""Loop 1, self-supervised: mask -> caption -> mask in a second view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NotRequired

from core.contracts import (
    Count,
    LossTerm,
    LossTerms,
    Model,
    Noise,
    Outlook,
    RegionBatch,
    Sample,
    Sampler,
    Segmentation,
    Share,
    Teacher,
    TokenLoss,
    Tokens,
    Wording,
    teacher_captions,
)
from core.late import torch
from plugins.loops._outlook import from_captions
from plugins.loops._samples import marked, samples_of
from plugins.loops._segmentation import SegmentationLosses, answer_term, iou_metric, mask_term, positive, segmentation_counts

if TYPE_CHECKING:
    from torch import Tensor


NEVER = -1e4  # added to a logit: its probability is then 0 in every dtype, and no arithmetic overflows


class MaskCaptionLosses(SegmentationLosses):
    """``pseudo`` (optional): the teacher's own tokens at the masked positions, of each region the mean over them."""

    pseudo: NotRequired[TokenLoss]


@dataclass(frozen=True)
class Cycle:
    """One way from the first mask over its caption to the mask in the second view."""

    pseudo: Tokens  # [B, T], what the teacher wrote
    masked: Tokens  # [B, T], with some words replaced
    hidden: Tensor  # [B, T] bool, where
    states: Tensor  # [B, T, D], the student's
    seen: Mapping[str, Tensor]  # [B, T] each, the sampler's diagnostics
    wording: Wording
    result: Segmentation  # of the second view, from the student's soft text


class MaskCaptionMask:
    """The teacher describes region 1; the student turns the masked description into soft text, and segments view 2 from it.

    The gradient of the mask loss runs through the second forward, the sampler and the first forward, projector included.
    Token ids are never fed to the second forward, and no special token is ever drawn into the text.
    """

    needs = frozenset({"teacher"})
    forwards, views = ("caption_states", "segment"), 2

    def __init__(self, *, sampler: Sampler, losses: MaskCaptionLosses, caption_length: Count = 256, token_mask_ratio: Share = 0.25) -> None:
        positive(caption_length=caption_length)
        if not 0 <= token_mask_ratio <= 1:
            raise ValueError(f"token_mask_ratio must lie in 0..1, not {token_mask_ratio}")
        self.sampler, self.losses = sampler, losses
        self.caption_length, self.token_mask_ratio = caption_length, token_mask_ratio

    def counts(self, model: Model, batch: RegionBatch, noise: Noise) -> dict[str, int]:
        return segmentation_counts(model, batch, noise) | ({"pseudo": len(batch)} if "pseudo" in self.losses else {})

    def cycle(self, model: Model, teacher: Teacher | None, batch: RegionBatch, noise: Noise) -> Cycle:
        assert teacher is not None  # the recipe check sees to it: needs names it
        vision = model.encode(batch)
        pseudo = teacher_captions(teacher, model, vision, batch, self.caption_length)  # [B, T]
        masked, hidden = self.mask_tokens(pseudo, batch.ids, model.ordinary_tokens, noise)
        states = model.caption_states(vision, batch.view1, batch.cells, masked)  # [B, T, D]
        gumbel = [noise.generator(sample, "gumbel") for sample in batch.ids]
        text, seen = self.sampler(states, ordinary_head(model), model.embedding(), gumbel)  # [B, T, D]
        wording = model.wording(batch.ids, noise)
        request = Wording([before + " " for before in wording.before], wording.after, wording.answers)  # a caption brings no space
        result = model.segment(vision, batch.view2, text, pseudo.mask, request)
        return Cycle(pseudo, masked, hidden, states, seen, wording, result)

    def __call__(self, model: Model, teacher: Teacher | None, batch: RegionBatch, noise: Noise) -> LossTerms:
        way = self.cycle(model, teacher, batch, noise)
        pseudo, hidden, seen, result = way.pseudo, way.hidden, way.seen, way.result
        terms = {
            "mask": mask_term(result, batch.mask2, batch, noise, self.losses["mask"]),
            "answer": answer_term(result, way.wording, model, self.losses["answer"]),
        }
        if "pseudo" in self.losses:
            # the number of masked tokens is not known before the teacher has written: regions are counted, all with equal weight
            loss, head = self.losses["pseudo"], model.head()
            rows = zip(way.states.split(1), pseudo.ids.split(1), hidden.split(1), strict=True)  # [1, T, D], [1, T], [1, T]
            means = [loss(state, Tokens(ids, where), head) / where.sum().clamp_min(1) for state, ids, where in rows]
            terms["pseudo"] = LossTerm(torch.stack(means).sum(), len(batch), loss.weight)
        lengths = pseudo.mask.sum(1)  # [B], tokens before the end-of-text token
        ended = lengths < self.caption_length  # [B]; without that token a caption is exactly caption_length tokens long
        real = float(lengths.sum())
        return LossTerms(
            terms,
            {
                "iou": iou_metric(result.mask_logits, batch.mask2),
                "caption_tokens": (real, len(batch)),
                "empty_captions": (float((lengths == 0).sum()), len(batch)),
                "ended_captions": (float(ended.sum()), len(batch)),
                "end_position": (float(lengths[ended].sum()), float(ended.sum())),
                "padding": (len(batch) * self.caption_length - real, len(batch) * self.caption_length),
                "topk_mass": (float(seen["topk_mass"][pseudo.mask].sum()), real),
                "kept_tokens": (float((seen["ids"] == pseudo.ids)[pseudo.mask].sum()), real),
            },
        )

    def outlook(self, figures: Mapping[str, float]) -> Outlook:
        return from_captions(figures)

    def samples(self, model: Model, teacher: Teacher | None, batch: RegionBatch, noise: Noise) -> list[Sample]:
        """``teacher``: what it wrote. ``replaced``: what the student read instead. ``student``: its own text, as hard tokens."""
        way = self.cycle(model, teacher, batch, noise)
        written = model.decode(way.pseudo)
        texts = {
            "teacher": written,
            "replaced": marked(model, way.masked, way.hidden),
            "student": model.decode(Tokens(way.seen["ids"], way.pseudo.mask)),
        }
        return samples_of(batch, batch.view2, batch.mask2, way.result.mask_logits, written, texts)

    def mask_tokens(self, pseudo: Tokens, samples: Sequence[str], ordinary: Tensor, noise: Noise) -> tuple[Tokens, Tensor]:
        """Replaces a share of each row's real tokens by random ordinary ones -> (tokens, where they were replaced [B, T])."""
        ids, hidden = pseudo.ids.clone(), torch.zeros_like(pseudo.mask)
        for row, sample in enumerate(samples):
            generator = noise.generator(sample, "token_mask")
            length = int(pseudo.mask[row].sum())
            chosen = torch.randperm(length, generator=generator)[: round(self.token_mask_ratio * length)].to(ids.device)
            drawn = torch.randint(len(ordinary), (len(chosen),), generator=generator)
            ids[row, chosen] = ordinary[drawn].to(ids.device)
            hidden[row, chosen] = True
        return Tokens(ids, pseudo.mask), hidden


def ordinary_head(model: Model) -> tuple[Tensor, Tensor]:
    """The output layer, [V, D] and [V], with a bias that rules out special tokens and rows beyond the vocabulary."""
    weight, bias = model.head()
    ruled_out = torch.full((len(weight),), NEVER, dtype=weight.dtype, device=weight.device)
    ruled_out[model.ordinary_tokens.to(weight.device)] = 0
    return weight, ruled_out if bias is None else ruled_out + bias
