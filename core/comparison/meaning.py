"""What the names of metrics mean, in one sentence each, for the tooltips of the page. Components' own metrics speak for themselves."""

from __future__ import annotations

import re

_MEANING: tuple[tuple[str, str], ...] = (
    (r"surgery/cosine/[^/]+", "Cosine of the two loops' gradients: 1 they agree, 0 nothing in common, below 0 one undoes the other."),
    (r"surgery/cosine/.+", "Cosine of the two loops' gradients in this group of parameters alone; below 0 they are in conflict there."),
    (r"surgery/conflict/.+", "Share of the parameter groups in which the two gradients point against each other (cosine below 0)."),
    (r"surgery/kept.*", "How much of the plain sum of the gradients the update keeps: 1 means that surgery took nothing away."),
    (r"surgery/norm/.+", "Length of this loop's gradient before surgery."),
    (r"surgery/weight/.+", "Coefficient with which this loop's gradient enters the update; 1 is its full weight."),
    (r"share of updates in conflict: .+", "How often the cosine of the two gradients was below 0, smoothed over about twenty updates."),
    (r"teacher/distance", "Distance of the student's weights from the teacher's, relative to the teacher's length."),
    (r"optimizer/grad_norm", "Length of the combined gradient before clipping."),
    (r"optimizer/lr", "The learning rate in this update."),
    (r"optimizer/skipped", "Updates left out so far because a loss or gradient was NaN or Inf."),
    (r"time/update_s", "Seconds of one update, without evaluations and checkpoints."),
    (r"time/samples_per_s", "Samples of all loops and processes in a second of training."),
    (r"memory/peak_gib", "The most memory so far in GiB: allocated on the GPU, or resident on the CPU."),
    (r"bad/.+", "Samples of this source that could not be used in the update, for this reason."),
    (r"task_loss/.+", "The loss of one task whose gradient is kept apart (gradient.by: task)."),
    (r".+/topk_mass", "Probability that the sampler's k tokens hold together; the less, the further its gradient is from the exact one."),
    (r".+/loss", "The loop's loss as it is differentiated: its terms times their weights."),
    (r".+/(caption_tokens|end_position)", "Length of the sampled captions, in tokens."),
    (r".+/ended_captions", "Share of the sampled captions that came to their end before the longest length."),
    (r".+/empty_captions", "Share of the sampled captions without a word."),
    (r".+/cIoU", "Sum of intersections / sum of unions over all expressions."),
    (r".+/gIoU", "Mean IoU over the expressions."),
    (r".+/precision@[\d.]+", "Share of expressions whose IoU is larger than the number."),
    (r".+/no_seg_share", "Share of answers without a mask."),
    (r".+/caption_ce", "Cross entropy of the reference captions, nats per token; low is good."),
    (r".+/caption_token_accuracy", "Share of reference tokens that get the largest logit when the earlier ones are given."),
    (r".+/exact_match", "Share of captions equal to a reference, up to case and white space."),
    (r".+/CIDEr", "Agreement with the references in rare n-grams, 0 to 10; published tables often show 100 times it."),
    (r".+/BLEU-\d", "Precision of n-grams with a penalty for short captions."),
    (r".+/ROUGE-L", "Longest common subsequence with a reference."),
)  # fmt: skip


def meaning(name: str) -> str:
    """A sentence on the metric ``name``; empty where its name alone does not tell."""
    return next((text for pattern, text in _MEANING if re.fullmatch(pattern, name)), "")
