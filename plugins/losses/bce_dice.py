"""Binary cross entropy plus dice on points sampled where the predicted mask is uncertain.

Source: PointRend, Kirillov et al., arXiv:1912.08193, section 3.1 ("point selection for training"), as used for mask
training in Mask2Former, arXiv:2112.01527.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from core.contracts import Count, NotNegative, Share, Within
from core.late import F, torch

if TYPE_CHECKING:
    from torch import Tensor


class BceDice:
    """``bce_weight * BCE + dice_weight * dice`` over ``points`` points of each region.

    Of ``oversample * points`` uniform points the ``importance`` share of ``points`` with the smallest |logit| is kept;
    the rest are fresh uniform points. ``weight`` is the term's weight in its loop.
    """

    def __init__(
        self,
        *,
        weight: NotNegative = 1.0,
        bce_weight: NotNegative = 2.0,
        dice_weight: NotNegative = 0.5,
        points: Count = 12544,
        oversample: Annotated[float, Within(1)] = 3.0,
        importance: Share = 0.75,
    ) -> None:
        for name, value in (("weight", weight), ("bce_weight", bce_weight), ("dice_weight", dice_weight)):
            if not value >= 0:
                raise ValueError(f"{name} must not be negative, but is {value}.")
        if points < 1:
            raise ValueError(f"points must be at least 1, not {points}.")
        if not oversample >= 1:
            raise ValueError(f"oversample must be at least 1, not {oversample}.")
        if not 0 <= importance <= 1:
            raise ValueError(f"importance must lie in 0..1, not {importance}.")
        self.weight, self.bce_weight, self.dice_weight = weight, bce_weight, dice_weight
        self.candidates, self.uncertain = int(oversample * points), int(importance * points)
        self.fresh = points - self.uncertain

    def __call__(self, logits: Tensor, target: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """[B, h, w] logits, [B, h, w] bool, B CPU generators -> [B] float32; a row depends on nothing but itself."""
        if not len(logits) == len(target) == len(generators):
            raise ValueError(f"bce_dice needs as many generators and targets as logits: {len(generators)}, {len(target)}, {len(logits)}.")
        logits = logits.float()  # [B, h, w]
        where = self.choose(logits.detach(), generators)  # [B, points, 2]
        x, y = sample(logits, where), sample(target.float(), where)  # [B, points] each
        bce = F.binary_cross_entropy_with_logits(x, y, reduction="none").mean(1)  # [B]
        p = x.sigmoid()  # [B, points]
        dice = 1 - (2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)  # [B], eps 1, first powers
        return self.bce_weight * bce + self.dice_weight * dice

    def choose(self, logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """[B, h, w] detached logits -> [B, points, 2] points (x, y) in the unit square."""
        drawn = torch.stack([torch.rand(self.candidates + self.fresh, 2, generator=generator) for generator in generators])
        candidates, fresh = drawn.to(logits.device).split([self.candidates, self.fresh], dim=1)  # [B, ., 2]
        nearest = sample(logits, candidates).abs().topk(self.uncertain, dim=1, largest=False).indices  # [B, uncertain]
        chosen = candidates.gather(1, nearest.unsqueeze(2).expand(-1, -1, 2))  # [B, uncertain, 2]
        return torch.cat([chosen, fresh], dim=1)


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of float maps [B, h, w] at points [B, n, 2] in [0, 1]; pixel centres lie at (i + 0.5) / size -> [B, n]."""
    grid = 2 * points.unsqueeze(1) - 1  # [B, 1, n, 2]
    return F.grid_sample(maps.unsqueeze(1), grid, mode="bilinear", padding_mode="zeros", align_corners=False)[:, 0, 0]
