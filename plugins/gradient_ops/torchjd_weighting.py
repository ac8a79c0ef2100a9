"""The Gramian weightings of TorchJD, an optional package.

Source: Quinton and Rey 2024, "Jacobian Descent for Multi-Objective Optimization", arXiv:2406.16232; https://torchjd.org.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from core.contracts import Gram, UserError
from plugins.gradient_ops._blocks import Scope, Scoped

Weighting = Literal[
    "aligned_mtl", "cagrad", "dual_proj", "fair_grad", "imtl_g", "krum", "mgda", "pcgrad", "upgrad"
]  # not the stateful ones: their state has no format that could be saved
CLASSES = {
    "aligned_mtl": "AlignedMTL", "cagrad": "CAGrad", "dual_proj": "DualProj", "fair_grad": "FairGrad", "imtl_g": "IMTLG",
    "krum": "Krum", "mgda": "MGDA", "pcgrad": "PCGrad", "upgrad": "UPGrad",
}  # fmt: skip


class TorchJd(Scoped):
    """``g = sum_i v_i s_i g_i`` with v of a TorchJD weighting of the scaled gradients' Gram matrix.

    weighting: its name. options: arguments of its constructor, such as ``{c: 0.4}`` of cagrad.
    A weighting that draws at random (pcgrad) draws the same in every update, so that ranks agree and a run can be repeated.
    """

    def __init__(self, *, weighting: Weighting = "upgrad", options: dict[str, Any] | None = None, scope: Scope = "global") -> None:
        super().__init__(scope)
        if weighting not in get_args(Weighting):
            raise ValueError(f"weighting must be one of {', '.join(get_args(Weighting))}, not {weighting!r}.")
        try:
            from torchjd import aggregation

            self._weighting = getattr(aggregation, CLASSES[weighting] + "Weighting")(**(options or {}))
        except ImportError as error:  # TorchJD's own message names the packages that a weighting needs beyond it
            raise UserError(f"weighting {weighting!r} needs TorchJD ({error}): pip install 'dualloop[torchjd]'") from None
        except TypeError as error:
            raise UserError(f"options do not fit TorchJD's {weighting}: {error}") from None

    def weights(self, gram: Gram) -> Tensor:
        """[P, n] float64."""
        return self.scaled(gram, self._solve)

    def _solve(self, G: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self._weighting(G).double()
