"""The plain sum of the loops' gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.contracts import Gram

if TYPE_CHECKING:
    from torch import Tensor


class WeightedSum:
    """``g = sum_i s_i g_i`` with the loops' weights s of the recipe: the same as one weighted loss."""

    def weights(self, gram: Gram) -> Tensor:
        """[P, n] float64: the scales, for every parameter group."""
        return gram.scales.repeat(len(gram.groups), 1)
