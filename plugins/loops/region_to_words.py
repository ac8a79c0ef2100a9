"""The first training stage of vision tower and projector: a region to its words, without the language model. For a fresh model only."""

from __future__ import annotations

from core.contracts import Count, GivesRegionTokens, LossTerm, LossTerms, Model, Noise, Positive, RegionBatch, Teacher, UserError
from core.late import F, torch
from plugins.loops._segmentation import positive, text_of


class RegionToWords:
    """The mean of a region's tokens must name the words of its caption, in any order.

    The output layer reads that mean as it reads a state of the language model, but each token of the vocabulary is a question of its
    own (binary cross entropy). Cheap, since the language model does not run, and the gradient comes to the vision tower by a short
    way, not through a language model that learns at the same time. ``scale``: of the logits.
    """

    needs = frozenset({"caption"})
    forwards: tuple[str, ...] = ()
    views = 1

    def __init__(self, *, caption_length: Count = 64, scale: Positive = 3.0) -> None:
        positive(caption_length=caption_length, scale=scale)
        self.caption_length, self.scale = caption_length, scale

    def counts(self, model: Model, batch: RegionBatch, noise: Noise) -> dict[str, int]:
        return {"words": len(batch)}

    def __call__(self, model: Model, teacher: Teacher | None, batch: RegionBatch, noise: Noise) -> LossTerms:
        if not isinstance(model, GivesRegionTokens):
            raise UserError("region_to_words reads the tokens of regions, which this model does not offer (GivesRegionTokens)")
        regions = model.region_tokens(model.encode(batch), batch.view1, batch.cells)  # B of [n_i, D]
        means = torch.stack([region.mean(0) for region in regions])  # [B, D]
        weight, bias = model.head()
        logits = self.scale * F.linear(F.rms_norm(means, means.shape[-1:]).to(weight.dtype), weight, bias).float()  # [B, V]
        said = torch.zeros_like(logits)  # [B, V], 1 where the caption has the token
        words = model.tokenize(text_of(batch), self.caption_length)  # [B, T]
        said[words.mask.nonzero()[:, 0], words.ids[words.mask]] = 1
        loss = F.binary_cross_entropy_with_logits(logits, said, reduction="none").sum(1)  # [B]
        return LossTerms({"words": LossTerm(loss.sum(), len(batch))})
